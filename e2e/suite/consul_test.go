//go:build e2e

package suite

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kerege/kerege/e2e/lab"
	"github.com/kerege/kerege/e2e/town"
)

const adopting = `mesh {
  trust_domain      = "test.example"
  mtls              = "permissive"
  default_intention = "allow"
  outbound          = "any"
}

defaults "*" {
  protocol = "http"
}
`

// consulTown is a Consul with three plain hosts registered in it, calling each other by
// its names: no mesh yet. Those of later are not registered.
func consulTown(t *testing.T, later ...string) (context.Context, *town.Town) {
	t.Helper()
	ctx, w := newTown(t, true)
	must(t, w.StartConsul(ctx))
	for _, h := range [][3]string{{"web", "web", "v1"}, {"api1", "api", "v1"}, {"api2", "api", "v2"}} {
		host, err := w.AddHost(ctx, h[0], h[1], h[2])
		must(t, err)
		must(t, host.Nameserver(w.ConsulHost.IP.String()))
		must(t, host.StartProgram(ctx))
		if !slices.Contains(later, h[0]) {
			must(t, w.Register(ctx, host))
		}
	}
	must(t, w.Hosts["web"].WaitFor(ctx, "http://api.service.consul:8080/", 200, 10*time.Second))
	return ctx, w
}

// A running fleet joins host by host, and one service becomes strict, with no failed call.
func TestAdoptionLosesNoCall(t *testing.T) {
	ctx, w := consulTown(t)
	must(t, w.StartServer(ctx, adopting))
	loads := map[string]string{"web": "http://api.service.consul:8080/", "api1": "http://web.service.consul:8080/"}
	reports := make(chan string, len(loads))
	for from, url := range loads {
		go func() {
			r, err := w.Hosts[from].Load(ctx, url, 50, 40*time.Second, "-fresh")
			if err != nil || r.Failed > 0 || r.ByCode["403"] > 0 || r.Calls < 1000 {
				reports <- fmt.Sprintf("%s → %s: %+v, %v", from, url, r, err)
				return
			}
			t.Logf("%s → %s: %d calls, 0 failed, p99 %s", from, url, r.Calls, r.P99)
			reports <- ""
		}()
	}
	shares := map[string]int{}
	for _, name := range []string{"web", "api1", "api2"} {
		h := w.Hosts[name]
		for _, step := range []func(context.Context) error{h.StartAgent, h.Join, h.StartEnvoy, h.WaitReady, h.Capture} {
			must(t, step(ctx))
		}
		time.Sleep(2 * time.Second)
		shares[name] = mtlsShare(t, ctx, w)
		t.Logf("after %s joined: %d of 100 calls from web to api are mTLS", name, shares[name])
	}
	if shares["web"] != 0 || shares["api1"] < 20 || shares["api1"] > 80 || shares["api2"] != 100 {
		t.Errorf("shares of mTLS are %v: want 0, about half, 100", shares)
	}
	must(t, w.Apply(ctx, adopting+`
service "api" {
  mtls              = "strict"
  default_intention = "deny"
}

intention "api" {
  allow { from = ["web"] }
}
`))
	for range loads {
		if bad := <-reports; bad != "" {
			t.Error(bad)
		}
	}
	got, err := w.Hosts["web"].Get(ctx, "http://api.service.consul:8080/")
	prefixed(t, got, "200 ", err)
	if out, code := w.Server.Combined(ctx, lab.Spec{Args: []string{"curl", "-s", "--max-time", "3", "http://" + w.Hosts["api1"].IP.String() + ":8080/"}}); code == 0 && strings.Contains(out, "version") {
		t.Errorf("a strict service answered plaintext: %s", out)
	}
}

// mtlsShare is how many of a hundred calls from web to api the application sees with a SPIFFE ID.
func mtlsShare(t *testing.T, ctx context.Context, w *town.Town) int {
	t.Helper()
	script := `for i in $(seq 100); do curl -s --max-time 3 http://api.service.consul:8080/; done`
	out, err := w.Hosts["web"].Output(ctx, lab.Spec{UID: town.UIDApp, Args: []string{"sh", "-c", script}})
	must(t, err)
	return strings.Count(out, "spiffe://test.example/svc/web")
}

// One service half in the file and half in Consul is one service. What Consul
// says of an instance reaches callers in under a second, both ways; a Consul that
// is killed removes nothing, and status says so.
func TestConsulHealthAndDeath(t *testing.T) {
	ctx, w := consulTown(t, "api2")
	web, api2 := w.Hosts["web"], w.Hosts["api2"]
	strict := strings.Replace(adopting, `"permissive"`, `"strict"`, 1)
	must(t, w.StartServer(ctx, strict+"\nservice \"api\" {"+instance(api2)+"}\n"))
	for _, name := range []string{"api1", "api2", "web"} {
		must(t, w.Hosts[name].BringInRunning(ctx))
	}
	url := "http://api.service.consul:8080/"
	must(t, web.WaitFor(ctx, url, 200, 10*time.Second))
	both := func() {
		t.Helper()
		bothAnswer(t, ctx, func(ctx context.Context, _ string, rate int, d time.Duration, more ...string) (town.Report, error) {
			return web.Load(ctx, url, rate, d, more...)
		})
	}
	t.Run("half in the file, half in Consul; then in both; then in Consul alone", func(t *testing.T) {
		both()
		r, err := web.LoadDuring(ctx, url, 100, 3*time.Second, func() error {
			if err := w.Register(ctx, api2); err != nil {
				return err
			}
			time.Sleep(time.Second)
			return w.Apply(ctx, strict)
		})
		must(t, err)
		none(t, "an instance moves from the file to Consul", r)
		if r.ByServer["v1"] < r.Calls/4 || r.ByServer["v2"] < r.Calls/4 {
			t.Errorf("the shares are not even: %v", r.ByServer)
		}
		both()
	})
	for _, c := range []struct {
		name      string
		out, back func() error
	}{
		{"critical", func() error { return w.SetHealth(ctx, api2, "critical") }, func() error { return w.SetHealth(ctx, api2, "passing") }},
		{"maintenance of the node", func() error { return w.Maintain(ctx, api2) }, func() error { return w.Deregister(ctx, api2, "_node_maintenance") }},
		{"deregistered and registered", func() error { return w.Deregister(ctx, api2, "") }, func() error { return w.Register(ctx, api2) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, step := range []struct {
				what string
				do   func() error
				at   func(town.Span) time.Time
			}{{"last call", c.out, func(s town.Span) time.Time { return s.Last }}, {"first call", c.back, func(s town.Span) time.Time { return s.First }}} {
				var told time.Time
				r, err := web.LoadDuring(ctx, url, 200, 2*time.Second, func() error {
					time.Sleep(500 * time.Millisecond)
					told = time.Now()
					return step.do()
				})
				must(t, err)
				none(t, step.what, r)
				took := step.at(r.Seen["v2"]).Sub(told)
				t.Logf("to the %s of v2: %s", step.what, took)
				if took > time.Second || r.ByServer["v2"] == 0 {
					t.Errorf("%s of v2 after %s: %v", step.what, took, r.ByServer)
				}
			}
		})
	}
	t.Run("Consul is killed (A2)", func(t *testing.T) {
		w.ConsulProc.Signal(syscall.SIGKILL)
		<-w.ConsulProc.Done()
		r, err := web.Load(ctx, url, 100, 4*time.Second)
		must(t, err)
		none(t, "Consul killed", r)
		if r.ByServer["v1"] == 0 || r.ByServer["v2"] == 0 {
			t.Errorf("an instance was lost: %+v", r)
		}
		out, code := w.Ask(ctx, "status")
		if code != 3 || !strings.Contains(out, "consul") {
			t.Errorf("status does not say that Consul is away: exit %d\n%s", code, out)
		}
	})
}
