//go:build e2e

package suite

import (
	"context"
	"fmt"
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
// its names: no mesh yet.
func consulTown(t *testing.T) (context.Context, *town.Town) {
	t.Helper()
	ctx, w := newTown(t, true)
	must(t, w.StartConsul(ctx))
	for _, h := range [][3]string{{"web", "web", "v1"}, {"api1", "api", "v1"}, {"api2", "api", "v2"}} {
		host, err := w.AddHost(ctx, h[0], h[1], h[2])
		must(t, err)
		must(t, host.Nameserver(w.ConsulHost.IP.String()))
		must(t, host.StartProgram(ctx))
		must(t, w.Register(ctx, host))
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

// Health from Consul's checks reaches callers in under a second, both ways; a
// Consul that is killed removes nothing, and is followed again when it is back.
func TestConsulHealthAndDeath(t *testing.T) {
	ctx, w := consulTown(t)
	must(t, w.StartServer(ctx, strings.Replace(adopting, `"permissive"`, `"strict"`, 1)))
	web, api2 := w.Hosts["web"], w.Hosts["api2"]
	for _, name := range []string{"api1", "api2", "web"} {
		h := w.Hosts[name]
		for _, step := range []func(context.Context) error{h.StartAgent, h.Join, h.StartEnvoy, h.WaitReady, h.Capture} {
			must(t, step(ctx))
		}
	}
	url := "http://api.service.consul:8080/"
	must(t, web.WaitFor(ctx, url, 200, 10*time.Second))
	bothAnswer(t, ctx, func(ctx context.Context, _ string, rate int, d time.Duration, more ...string) (town.Report, error) {
		return web.Load(ctx, url, rate, d, more...)
	})
	t.Run("critical", func(t *testing.T) {
		must(t, w.SetHealth(ctx, api2, "critical"))
		began := time.Now()
		must(t, lab.Until(ctx, 10*time.Second, "v2 to get no more calls", func() error {
			r, err := web.Load(ctx, url, 200, 200*time.Millisecond)
			if err == nil && r.ByServer["v2"] > 0 {
				return errText("calls to v2")
			}
			return err
		}))
		took := time.Since(began) - 200*time.Millisecond
		t.Logf("critical to last call: at most %s", took)
		if took > time.Second {
			t.Errorf("v2 got calls for %s after it was critical", took)
		}
		must(t, w.SetHealth(ctx, api2, "passing"))
		bothAnswer(t, ctx, func(ctx context.Context, _ string, rate int, d time.Duration, more ...string) (town.Report, error) {
			return web.Load(ctx, url, rate, d, more...)
		})
	})
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
