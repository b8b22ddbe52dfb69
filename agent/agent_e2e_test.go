//go:build e2e

package agent

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/kerege/kerege/agent/envoy"
	"github.com/kerege/kerege/api"
	"github.com/kerege/kerege/e2e/parts"
)

// launch starts a service's real Envoy and returns when it is ready, with how
// long that took.
func (p *place) launch(service string) (stop func(), took time.Duration) {
	p.t.Helper()
	var b api.Bootstrap
	limits := envoy.Limits{Heap: 1 << 30, Connections: 1000}
	begin := time.Now()
	p.until("the bootstrap of "+service, func() (ok bool) {
		var err error
		b, err = p.client.Bootstrap(p.ctx, service, "", limits)
		return err == nil
	})
	ready := make(chan struct{}, 1)
	ctx, cancel := context.WithCancel(p.ctx)
	var out io.Writer = io.Discard
	if os.Getenv("KEREGE_TEST_LOG") != "" {
		out = os.Stderr
	}
	l := envoy.NewLauncher(envoy.Options{Path: parts.Path(p.t, "envoy"), Dir: b.Dir, Bootstrap: b.Bootstrap, Concurrency: 1, Drain: 100 * time.Millisecond,
		Output: out, Ready: func() { ready <- struct{}{} }})
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := l.Run(ctx); err != nil {
			p.t.Errorf("Envoy of %s: %v", service, err)
		}
	})
	stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	p.t.Cleanup(stop)
	select {
	case <-ready:
	case <-time.After(15 * time.Second):
		st, _ := p.client.Status(p.ctx)
		p.t.Fatalf("Envoy of %s is not ready; %+v", service, st)
	}
	return stop, time.Since(begin)
}

// TestRealEnvoysStartFromDisk (C2, C4, E11): two services call each other by
// mTLS; then every server, the agent and both Envoys go; the agent and the Envoys
// come back alone, and the call works again.
func TestRealEnvoysStartFromDisk(t *testing.T) {
	app := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "hello from api") }))
	t.Cleanup(app.Close)
	local := uint16(freePort(t))
	port := uint16(freePort(t))
	webPort := uint16(freePort(t))
	p := newPlace(t, fmt.Sprintf(`mesh { trust_domain = "t.example" }
service "web" {
  protocol = "http"
  instance "web-1" {
    address = "127.0.0.1"
    port    = %d
    node    = "n1"
  }
}
service "api" {
  protocol = "http"
  instance "api-1" {
    address = "127.0.0.1"
    port    = %d
    node    = "n1"
  }
}
intention "api" {
  allow { from = ["web"] }
}
`, webPort, port))
	at := func(port uint16) netip.AddrPort { return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port) }
	p.opt.Explicit = map[string]Explicit{
		"web": {Upstreams: []envoy.Explicit{{Service: "api", Port: port, LocalPort: local}}, Accept: []envoy.Accept{{Listen: at(webPort), App: at(1)}}},
		"api": {Accept: []envoy.Accept{{Listen: at(port), App: netip.MustParseAddrPort(app.Listener.Addr().String())}}},
	}
	call := func() (string, error) {
		c := http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
		r, err := c.Get(fmt.Sprintf("http://127.0.0.1:%d/", local))
		if err != nil {
			return "", err
		}
		defer r.Body.Close()
		text, err := io.ReadAll(r.Body)
		return fmt.Sprint(r.StatusCode, " ", string(text)), err
	}
	works := func(when string) {
		t.Helper()
		var got string
		var err error
		p.until("the call "+when, func() bool {
			if got, err = call(); got != "200 hello from api" {
				t.Logf("%s: %q %v", when, got, err)
				time.Sleep(200 * time.Millisecond)
				return false
			}
			return true
		})
	}
	p.startServer()
	p.startNode()
	if _, err := p.client.Join(p.ctx, api.AgentJoin{Token: p.token()}); err != nil {
		t.Fatal(err)
	}
	stopAPI, _ := p.launch("api")
	stopWeb, _ := p.launch("web")
	p.until("both in", func() bool {
		st, err := p.client.Status(p.ctx)
		return err == nil && len(st.Workloads) == 2 && st.Workloads[0].Accepted && st.Workloads[1].Accepted
	})
	works("with everything there")

	p.stopServer()
	p.stopNode()
	works("with neither server nor agent")
	stopWeb()
	stopAPI()
	p.startNode()
	for _, service := range []string{"api", "web"} {
		if _, took := p.launch(service); took > 2*time.Second {
			t.Errorf("Envoy of %s was ready after %s, from disk", service, took)
		} else {
			t.Logf("Envoy of %s: ready after %s, from disk", service, took)
		}
	}
	works("from disk")
	st, err := p.client.Status(p.ctx)
	if err != nil || st.Servers.Connected || st.Workloads[0].Proxy.Source != "disk" {
		t.Errorf("%+v %v", st, err)
	}
	for _, w := range st.Workloads {
		for _, x := range w.Proxy.Types {
			if x.Nack != "" {
				t.Errorf("%s: Envoy refused %s", w.Service, x.Nack)
			}
		}
	}
}
