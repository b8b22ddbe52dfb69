package envoy

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kre")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// fakeAdmin answers as Envoy's admin does, with what the test sets.
type fakeAdmin struct {
	mu      sync.Mutex
	ready   int
	stats   map[string]any
	drained chan struct{}
}

func (f *fakeAdmin) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch r.URL.Path {
	case "/ready":
		w.WriteHeader(f.ready)
		fmt.Fprintln(w, "INITIALIZING")
	case "/stats":
		var list []map[string]any
		for k, v := range f.stats {
			list = append(list, map[string]any{"name": k, "value": v})
		}
		json.NewEncoder(w).Encode(map[string]any{"stats": append(list, map[string]any{"histograms": 1})})
	case "/drain_listeners":
		if r.Method == "POST" && r.URL.RawQuery == "graceful&skip_exit" {
			close(f.drained)
		}
	}
}

func (f *fakeAdmin) set(ready int, stats map[string]any) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ready, f.stats = ready, stats
}

func startAdmin(t *testing.T, dir string) *fakeAdmin {
	t.Helper()
	f := &fakeAdmin{ready: 503, drained: make(chan struct{})}
	l, err := net.Listen("unix", AdminSocket(dir))
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: f}
	done := make(chan struct{})
	go func() { defer close(done); s.Serve(l) }()
	t.Cleanup(func() { s.Close(); <-done })
	return f
}

func TestReadySaysWhatIsMissing(t *testing.T) {
	dir := shortDir(t)
	f, a := startAdmin(t, dir), NewAdmin(AdminSocket(dir))
	up := func(more map[string]any) map[string]any {
		m := map[string]any{"listener_manager.workers_started": 1, "listener_manager.total_listeners_active": 1, "a.text": "x"}
		for k, v := range more {
			m[k] = v
		}
		return m
	}
	for _, c := range []struct {
		status int
		stats  map[string]any
		want   string
	}{
		{503, nil, "INITIALIZING"},
		{200, nil, "workers"},
		{200, up(map[string]any{"listener_manager.total_listeners_warming": 2}), "2 of Envoy's listeners"},
		{200, up(map[string]any{"cluster_manager.warming_clusters": 3}), "3 of Envoy's clusters"},
		{200, up(map[string]any{"listener_manager.total_listeners_active": 0}), "first listener"},
		{200, up(nil), ""},
	} {
		f.set(c.status, c.stats)
		err := a.Ready(t.Context())
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%d %v: %v", c.status, c.stats, err)
		}
	}
}

func TestInFlightCountsWhatMatters(t *testing.T) {
	dir := shortDir(t)
	f, a := startAdmin(t, dir), NewAdmin(AdminSocket(dir))
	f.set(200, map[string]any{"http.admin.downstream_rq_active": 1, "cluster.kerege-agent.upstream_rq_active": 3, "http.inbound/api_80.downstream_rq_active": 2, "tcp.x.downstream_cx_active": 4})
	if n, err := a.InFlight(t.Context()); n != 6 || err != nil {
		t.Error(n, err)
	}
}

func TestAnEnvoyThatKeepsDyingIsGivenUpOnWithItsCause(t *testing.T) {
	dir := shortDir(t)
	l := NewLauncher(Options{Path: program(t, dir, "envoy", "echo x >> "+dir+"/starts; exit 3\n"), Dir: dir, Output: io.Discard})
	err := l.Run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "exit status 3") {
		t.Error(err)
	}
	if b, _ := os.ReadFile(filepath.Join(dir, "starts")); string(b) != strings.Repeat("x\n", maxCrashes) {
		t.Errorf("%q", b)
	}
}

func TestAnEnvoyThatCannotStartIsNotTriedAgain(t *testing.T) {
	l := NewLauncher(Options{Path: "/nowhere/envoy", Dir: shortDir(t)})
	began := time.Now()
	if err := l.Run(t.Context()); err == nil || !strings.Contains(err.Error(), "starting Envoy") || time.Since(began) > time.Second {
		t.Error(err)
	}
}

func TestAnEnvoyThatIgnoresTheSignalIsKilled(t *testing.T) {
	dir := shortDir(t)
	ctx, cancel := context.WithCancel(t.Context())
	l := NewLauncher(Options{Path: program(t, dir, "envoy", "trap '' TERM; echo started; exec sleep 60\n"), Dir: dir, Output: cancelWriter(cancel)})
	began := time.Now()
	if err := l.Run(ctx); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > killAfter+3*time.Second {
		t.Errorf("after %v", took)
	}
}

type cancelWriter context.CancelFunc

func (c cancelWriter) Write(b []byte) (int, error) { c(); return len(b), nil }

// The folder may be given to the proxy's user a moment after the agent has told
// its place, and hold the file of a user that the proxy ran as before.
func TestTheBootstrapIsWrittenWhereTheFolderComesLater(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: only root can be refused a folder and then be given it")
	}
	const user = 4242
	dir := shortDir(t)
	path := filepath.Join(dir, "bootstrap.json")
	for _, step := range []error{os.WriteFile(path, []byte("of another user"), 0o600), os.Chmod(dir, 0o700)} {
		if step != nil {
			t.Fatal(step)
		}
	}
	given := time.AfterFunc(300*time.Millisecond, func() { _ = os.Chown(dir, user, user) })
	defer given.Stop()
	l := NewLauncher(Options{Dir: dir, Bootstrap: []byte("{}")})
	done := make(chan error, 1)
	go func() {
		goruntime.LockOSThread() // never unlocked: the thread ends with the user
		for _, call := range []uintptr{syscall.SYS_SETFSGID, syscall.SYS_SETFSUID} {
			_, _, _ = syscall.RawSyscall(call, user, 0, 0)
		}
		done <- l.writeBootstrap(context.Background(), []byte("{}"))
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "{}" {
		t.Errorf("%q, %v", text, err)
	}
}
