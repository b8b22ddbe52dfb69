//go:build e2e

package envoy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kerege/kerege/e2e/parts"
	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/plan"
)

// rig is an Envoy before a program, with what it takes to reload it.
type rig struct {
	t        *testing.T
	dir      string
	at       netip.AddrPort
	fixed    *fixed
	boot     []byte
	launcher *Launcher
	ready    chan struct{}
	result   chan error
	cancel   context.CancelFunc
	stopped  bool

	mu    sync.Mutex
	fresh Fresh
}

func freePort(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// newRig runs an Envoy; /slow of the program behind it answers in pieces until
// the channel is closed.
func newRig(t *testing.T, drain time.Duration) (r *rig, slow chan struct{}) {
	t.Helper()
	slow = make(chan struct{})
	app, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if q.URL.Path != "/slow" {
			fmt.Fprint(w, "done")
			return
		}
		for {
			fmt.Fprintln(w, "piece")
			w.(http.Flusher).Flush()
			select {
			case <-slow:
				fmt.Fprint(w, "end")
				return
			case <-q.Context().Done():
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	})}
	go server.Serve(app)
	t.Cleanup(func() { server.Close() })
	r = &rig{t: t, dir: shortDir(t), at: freePort(t), ready: make(chan struct{}, 64), result: make(chan error, 1)}
	out := freePort(t).Port()
	r.fixed = &fixed{answer: make(chan struct{}), plan: &plan.Proxy{
		Node: plan.Node{ID: mesh.ProxyID{Service: "web", Node: "n1"}, OutboundPort: out, NoIPv6: true,
			Accept: []plan.Accept{{Listen: r.at, App: app.Addr().(*net.TCPAddr).AddrPort()}}},
		Outside: plan.Outside{Mode: mesh.OutboundRegistered, Caller: "web"},
		Inbound: []*plan.Inbound{{Service: "web", Number: r.at.Port(), Port: 80, Protocol: mesh.ProtocolHTTP, MTLS: mesh.MTLSDisabled,
			Policy: &plan.Policy{Name: "web:80", TrustDomain: "test.example", Default: mesh.ActionAllow}}},
	}}
	close(r.fixed.answer)
	serveXDS(t, r.dir, r.fixed)
	limits, err := Detect()
	if err != nil {
		t.Fatal(err)
	}
	if r.boot, err = Bootstrap(Config{ID: r.fixed.plan.Node.ID, Dir: r.dir, OutboundPort: out, Limits: limits}); err != nil {
		t.Fatal(err)
	}
	r.fresh = Fresh{parts.Path(t, "envoy"), r.boot}
	r.launcher = NewLauncher(Options{Path: r.fresh.Path, Dir: r.dir, Bootstrap: r.boot, Concurrency: 2, Drain: drain, Output: io.Discard,
		Ready: func() { r.ready <- struct{}{} },
		Renew: func(context.Context) (Fresh, error) { r.mu.Lock(); defer r.mu.Unlock(); return r.fresh, nil }})
	ctx, cancel := context.WithCancel(t.Context())
	r.cancel = cancel
	go func() { r.result <- r.launcher.Run(ctx) }()
	t.Cleanup(r.stop)
	r.awaitReady()
	return r, slow
}

func (r *rig) awaitReady() {
	r.t.Helper()
	select {
	case <-r.ready:
	case err := <-r.result:
		r.t.Fatal("the launcher ended: ", err)
	case <-time.After(20 * time.Second):
		r.t.Fatal("not ready within 20 s")
	}
}

// stop ends everything, and looks for what is left.
func (r *rig) stop() {
	if r.stopped {
		return
	}
	r.stopped = true
	r.cancel()
	if err := <-r.result; err != nil {
		r.t.Error(err)
	}
	if left := r.envoys(); len(left) > 0 {
		r.t.Error("Envoys are left:", left)
	}
	for _, pattern := range []string{"hot_*", "base-id"} {
		if left, _ := filepath.Glob(filepath.Join(r.dir, pattern)); len(left) > 0 {
			r.t.Error("files are left:", left)
		}
	}
	if _, err := os.Stat(r.launcher.region.memory()); !errors.Is(err, os.ErrNotExist) {
		r.t.Error("shared memory is left:", err)
	}
}

// envoys are those that run with the bootstrap of this rig.
func (r *rig) envoys() (pids []int) { return envoysOf(r.dir) }

func envoysOf(dir string) (pids []int) {
	list, _ := os.ReadDir("/proc")
	for _, e := range list {
		line, _ := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		if pid, err := strconv.Atoi(e.Name()); err == nil && strings.Contains(string(line), dir+"/bootstrap.json\x00") {
			pids = append(pids, pid)
		}
	}
	return pids
}

// load calls from many sides until stop: half of the callers keep their
// connections, half open one for each call.
func (r *rig) load() (stop func() (calls, failed int64)) {
	var calls, failed atomic.Int64
	var wg sync.WaitGroup
	end := make(chan struct{})
	for n := range 4 {
		transport := &http.Transport{DisableKeepAlives: n%2 == 0}
		client := &http.Client{Transport: transport, Timeout: 10 * time.Second}
		wg.Go(func() {
			defer transport.CloseIdleConnections()
			for {
				select {
				case <-end:
					return
				case <-time.After(10 * time.Millisecond):
				}
				calls.Add(1)
				// POST: neither Go's client nor Envoy tries it again.
				res, err := client.Post("http://"+r.at.String()+"/", "text/plain", strings.NewReader("x"))
				if err == nil {
					_, err = io.Copy(io.Discard, res.Body)
					res.Body.Close()
					if res.StatusCode != 200 {
						err = errors.New(res.Status)
					}
				}
				if err != nil {
					failed.Add(1)
					r.t.Log(err)
				}
			}
		})
	}
	return func() (int64, int64) { close(end); wg.Wait(); return calls.Load(), failed.Load() }
}

func (r *rig) epoch() int {
	r.t.Helper()
	i, err := r.launcher.Admin().info(r.t.Context())
	if err != nil {
		r.t.Error(err)
	}
	return i.Options.Epoch
}

// Ten reloads in a row under load lose nothing, and leave one Envoy.
func TestTenReloadsLoseNoCall(t *testing.T) {
	r, _ := newRig(t, 5*time.Second)
	first, began := r.envoys(), time.Now()
	stop := r.load()
	for n := 1; n <= 10; n++ {
		if err := Ask(t.Context(), r.dir); err != nil {
			t.Fatal(err)
		}
		r.awaitReady()
		if got := r.epoch(); got != n {
			t.Errorf("epoch %d after %d reloads", got, n)
		}
	}
	if took := time.Since(began); took > 45*time.Second {
		t.Errorf("ten reloads took %s: nobody is connected to the ones before", took)
	}
	wait(t, "the one before to end", func() bool { return len(r.envoys()) == 1 })
	if calls, failed := stop(); failed > 0 || calls < 300 {
		t.Errorf("%d of %d calls failed", failed, calls)
	}
	if now := r.envoys(); now[0] == first[0] {
		t.Error("it is the first one still")
	}
}

// A long answer goes on through the one before until the time for it is up; a
// short one ends with its own end.
func TestALongAnswerOutlivesAReload(t *testing.T) {
	for _, c := range []struct {
		name  string
		drain time.Duration
		ends  bool
	}{{"it ends in time", 6 * time.Second, true}, {"it takes too long", 2 * time.Second, false}} {
		t.Run(c.name, func(t *testing.T) {
			r, slow := newRig(t, c.drain)
			res, err := http.Get("http://" + r.at.String() + "/slow")
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			began := time.Now()
			if err := r.launcher.Reload(t.Context()); err != nil {
				t.Fatal(err)
			}
			if n := len(r.envoys()); n != 2 {
				t.Fatalf("%d Envoys while an answer is under way", n)
			}
			if c.ends {
				buf := make([]byte, 6)
				for range 20 { // about a second of the answer, after the reload
					if _, err := io.ReadFull(res.Body, buf); err != nil {
						t.Fatal(err)
					}
				}
				close(slow)
			}
			body, err := io.ReadAll(res.Body)
			if got := err == nil && strings.HasSuffix(string(body), "end"); got != c.ends {
				t.Errorf("the whole answer: %t (%v)", got, err)
			}
			wait(t, "one Envoy", func() bool { return len(r.envoys()) == 1 })
			if took := time.Since(began); took < c.drain-time.Second || took > c.drain+5*time.Second {
				t.Errorf("the one before ended after %v", took)
			}
		})
	}
}

// What does not start leaves the one before serving, and the next reload works.
func TestAReloadThatFailsLeavesTheOneBefore(t *testing.T) {
	r, _ := newRig(t, 5*time.Second)
	good := r.fresh
	const dies = "it dies before it has its listeners"
	for _, c := range []struct {
		name  string
		fresh Fresh
		want  string
	}{
		{"no such program", Fresh{r.dir + "/nowhere", r.boot}, "no such file"},
		{"not Envoy", Fresh{program(t, r.dir, "not", "echo hello\n"), r.boot}, "not what Envoy answers"},
		{"a bootstrap that is none", Fresh{good.Path, []byte(`{"nod": {}}`)}, "nod"},
		{"another way to take over", Fresh{program(t, r.dir, "other", `case "$*" in *--hot-restart-version*) echo warning: x; echo 12.0;; *) exec `+good.Path+` "$@";; esac`+"\n"), r.boot}, "(12.0, and that speaks 11.104): restart it instead"},
		{dies, good, "died before it served"},
	} {
		t.Run(c.name, func(t *testing.T) {
			before, stop := r.envoys(), r.load()
			r.mu.Lock()
			r.fresh = c.fresh
			r.mu.Unlock()
			if c.name == dies {
				r.fixed.hold(make(chan struct{}))
				go r.killAnother(before[0])
			}
			err := Ask(t.Context(), r.dir)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "the one before serves on") || strings.Contains(err.Error(), "\n") {
				t.Errorf("%v", err)
			}
			time.Sleep(200 * time.Millisecond) // of calls after it
			if calls, failed := stop(); failed > 0 || calls == 0 {
				t.Errorf("%d of %d calls failed", failed, calls)
			}
			wait(t, "the same Envoy", func() bool { now := r.envoys(); return len(now) == 1 && now[0] == before[0] })
			if text, err := os.ReadFile(r.launcher.bootstrapFile()); err != nil || string(text) != string(r.boot) {
				t.Errorf("the bootstrap is not what it was: %v", err)
			}
		})
	}
	given := make(chan struct{})
	close(given)
	r.fixed.hold(given)
	if err := r.launcher.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.awaitReady()
}

// killAnother kills the Envoy beside this one, once that has asked for its
// configuration.
func (r *rig) killAnother(pid int) {
	for range 1000 {
		time.Sleep(10 * time.Millisecond)
		if i, err := r.launcher.Admin().info(r.t.Context()); err != nil || i.Options.Epoch == 0 {
			continue
		}
		for _, other := range r.envoys() {
			if other != pid {
				syscall.Kill(other, syscall.SIGKILL)
				return
			}
		}
	}
}

// One that dies while the one before is still on its way out is started anew, and
// that one is ended: it holds the listening sockets.
func TestANewOneThatDiesIsStartedAgain(t *testing.T) {
	r, slow := newRig(t, 20*time.Second)
	defer close(slow)
	res, err := http.Get("http://" + r.at.String() + "/slow")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	old := r.envoys()[0]
	if err := r.launcher.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.awaitReady()
	for _, pid := range r.envoys() {
		if pid != old {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
	}
	r.awaitReady()
	if now := r.envoys(); len(now) != 1 || now[0] == old || r.epoch() != 0 {
		t.Errorf("%v run, the first was %d", now, old)
	}
	stop := r.load()
	time.Sleep(300 * time.Millisecond) // of calls
	if calls, failed := stop(); failed > 0 || calls == 0 {
		t.Errorf("%d of %d calls failed", failed, calls)
	}
}

// A launcher that is killed, while it reloads or where it does not, leaves no Envoy.
func TestAKilledLauncherLeavesNoEnvoy(t *testing.T) {
	if dir := os.Getenv("KEREGE_TEST_LAUNCHER"); dir != "" {
		boot, err := os.ReadFile(dir + "/given.json")
		if err != nil {
			t.Fatal(err)
		}
		fresh := Fresh{parts.Path(t, "envoy"), boot}
		o := Options{Path: fresh.Path, Dir: dir, Bootstrap: boot, Concurrency: 1, Output: os.Stderr} // no pipe, of whose end an Envoy might die
		if os.Getenv("KEREGE_TEST_RELOADS") != "" {
			o.Renew = func(context.Context) (Fresh, error) { return fresh, nil }
		}
		t.Fatal(NewLauncher(o).Run(t.Context()))
	}
	r, slow := newRig(t, 5*time.Second)
	close(slow)
	r.stop()
	if err := os.WriteFile(r.dir+"/given.json", r.boot, 0o600); err != nil {
		t.Fatal(err)
	}
	// What is left over is ours, and no business of an init that ends orphans.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	defer unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
	for n, after := range []time.Duration{0, 0, 50 * time.Millisecond, 100 * time.Millisecond, 300 * time.Millisecond, time.Second} {
		cmd := exec.Command(os.Args[0], "-test.run", "^TestAKilledLauncherLeavesNoEnvoy$")
		cmd.Env = append(os.Environ(), "KEREGE_TEST_LAUNCHER="+r.dir)
		if n > 0 {
			cmd.Env = append(cmd.Env, "KEREGE_TEST_RELOADS=1")
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		admin := NewAdmin(AdminSocket(r.dir))
		wait(t, "ready", func() bool { return admin.Ready(t.Context()) == nil })
		asked := make(chan error, 1)
		go func() { asked <- Ask(t.Context(), r.dir) }()
		time.Sleep(after) // of its reload
		cmd.Process.Kill()
		cmd.Wait()
		<-asked
		wait(t, "no Envoy", func() bool { return len(r.envoys()) == 0 })
		for {
			if _, err := unix.Wait4(-1, nil, 0, nil); err != nil {
				break // all are gone
			}
		}
	}
	left, err := openRegion(r.dir, sharedMemory) // as the next launcher does
	if err != nil {
		t.Fatal(err)
	}
	left.close()
}
