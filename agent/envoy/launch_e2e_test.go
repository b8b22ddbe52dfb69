//go:build e2e

package envoy

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"

	"github.com/kerege/kerege/e2e/parts"
	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/plan"
	"github.com/kerege/kerege/xds"
)

// fixed answers each first request for a type with all that there is.
type fixed struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	plan   *plan.Proxy
	mu     sync.Mutex
	answer chan struct{} // closed when it may
}

// hold keeps those who come from now on waiting, until answer is closed.
func (f *fixed) hold(answer chan struct{}) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answer = answer
}

func (f *fixed) may() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.answer
}

func (f *fixed) DeltaAggregatedResources(s discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	select {
	case <-f.may():
	case <-s.Context().Done():
		return nil
	}
	set, err := xds.NewTranslator().Translate(f.plan)
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	for {
		r, err := s.Recv()
		if err != nil || r.ErrorDetail != nil {
			return err
		}
		if seen[r.TypeUrl] {
			continue
		}
		seen[r.TypeUrl] = true
		res := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: r.TypeUrl, Nonce: r.TypeUrl}
		for _, g := range set.Groups {
			for _, r := range g.Resources {
				if r.Type == res.TypeUrl {
					res.Resources = append(res.Resources, &discoveryv3.Resource{Name: r.Name, Version: r.Version, Resource: r.Body})
				}
			}
		}
		if err := s.Send(res); err != nil {
			return err
		}
	}
}

func serveXDS(t *testing.T, dir string, f *fixed) {
	t.Helper()
	l, err := net.Listen("unix", XDSSocket(dir))
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(s, f)
	done := make(chan struct{})
	go func() { defer close(done); s.Serve(l) }()
	t.Cleanup(func() { s.Stop(); <-done })
}

func wait(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("not within 15 s: %s", what)
}

// One Envoy's life: nothing before its configuration, ready, killed and started
// again, drained with a call in flight, gone.
func TestLauncherWithTheRealEnvoy(t *testing.T) {
	dir, path := shortDir(t), parts.Path(t, "envoy")
	if err := Check(t.Context(), path); err != nil {
		t.Fatal(err)
	}
	ports := make([]uint16, 1)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ports[0] = uint16(l.Addr().(*net.TCPAddr).Port)
	l.Close()
	f := &fixed{answer: make(chan struct{}), plan: &plan.Proxy{
		Node:    plan.Node{ID: mesh.ProxyID{Service: "web", Node: "n1"}, OutboundPort: ports[0], NoIPv6: true},
		Outside: plan.Outside{Mode: mesh.OutboundRegistered, Caller: "web"},
	}}
	// Something with calls: a slow application at a plaintext port.
	slow := make(chan struct{})
	app, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { <-slow; fmt.Fprint(w, "done") })}
	go server.Serve(app)
	t.Cleanup(func() { server.Close() })
	in, _ := net.Listen("tcp", "127.0.0.1:0")
	at := in.Addr().(*net.TCPAddr).AddrPort()
	in.Close()
	f.plan.Node.Accept = []plan.Accept{{Listen: at, App: app.Addr().(*net.TCPAddr).AddrPort()}}
	f.plan.Inbound = []*plan.Inbound{{Service: "web", Number: at.Port(), Port: 80, Protocol: mesh.ProtocolHTTP, MTLS: mesh.MTLSDisabled,
		Policy: &plan.Policy{Name: "web:80", TrustDomain: "test.example", Default: mesh.ActionAllow}}}
	serveXDS(t, dir, f)

	limits, err := Detect()
	if err != nil {
		t.Fatal(err)
	}
	boot, err := Bootstrap(Config{ID: f.plan.Node.ID, Dir: dir, OutboundPort: ports[0], Limits: limits})
	if err != nil {
		t.Fatal(err)
	}
	ready := make(chan struct{}, 8)
	left := make(chan struct{})
	launcher := NewLauncher(Options{Path: path, Dir: dir, Bootstrap: boot, Concurrency: 1, Drain: 10 * time.Second, Output: io.Discard,
		Ready: func() { ready <- struct{}{} }, Leaving: func(context.Context) { close(left) }})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	result := make(chan error, 1)
	go func() { result <- launcher.Run(ctx) }()

	wait(t, "the admin socket", func() bool { _, err := launcher.Admin().Get(t.Context(), "/server_info"); return err == nil })
	if err := launcher.Admin().Ready(t.Context()); err == nil || len(ready) > 0 {
		t.Error("ready without a configuration")
	}
	if info, err := os.Stat(AdminSocket(dir)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	if _, err := launcher.Admin().Post(t.Context(), "/quitquitquit"); err == nil {
		t.Error("the admin socket lets anybody end Envoy")
	}
	close(f.answer)
	wait(t, "ready", func() bool { return len(ready) == 1 })
	if err := launcher.Admin().Ready(t.Context()); err != nil {
		t.Error(err)
	}

	if s, err := launcher.Admin().Stats(t.Context(), "deprecated_feature_use|update_rejected|unknown_fields|wip_protos"); err != nil || len(s) < 4 {
		t.Error(s, err)
	} else {
		for name, n := range s {
			if n != 0 {
				t.Errorf("%s = %d", name, n)
			}
		}
	}

	// Killed: it comes back by itself.
	if err := syscall.Kill(childOf(t, dir), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	wait(t, "ready again", func() bool { return len(ready) == 2 })

	// A call in flight outlives the order to stop.
	answer := make(chan string, 1)
	go func() {
		res, err := http.Get("http://" + at.String())
		if err != nil {
			answer <- err.Error()
			return
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		answer <- string(b)
	}()
	wait(t, "the call in flight", func() bool { n, _ := launcher.Admin().InFlight(t.Context()); return n > 0 })
	cancel()
	<-left
	select {
	case <-result:
		t.Fatal("it did not wait for the call in flight")
	case <-time.After(500 * time.Millisecond):
	}
	close(slow)
	if got := <-answer; got != "done" {
		t.Errorf("the call in flight got %q", got)
	}
	began := time.Now()
	if err := <-result; err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("it ended %v after its last call", took)
	}
}

// childOf finds the Envoy that runs with a bootstrap of dir.
func childOf(t *testing.T, dir string) int {
	t.Helper()
	entries, _ := os.ReadDir("/proc")
	for _, e := range entries {
		line, _ := os.ReadFile("/proc/" + e.Name() + "/cmdline")
		if strings.Contains(string(line), dir+"/bootstrap.json") {
			var pid int
			fmt.Sscan(e.Name(), &pid)
			return pid
		}
	}
	t.Fatal("no such Envoy")
	return 0
}
