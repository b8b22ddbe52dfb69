//go:build e2e

package suite

import (
	"strings"
	"testing"
	"time"

	"github.com/kerege/kerege/e2e/lab"
	"github.com/kerege/kerege/e2e/town"
)

// The capture is taken away on a host, and on the next: callers go on to what is
// left, and where nothing is left, everybody is told why.
func TestCaptureRemoveTellsTheCallers(t *testing.T) {
	ctx, w := newTown(t, false)
	hosts := map[string]*town.Host{}
	for _, x := range [][3]string{{"web", "web", "w"}, {"api1", "api", "v1"}, {"api2", "api", "v2"}} {
		h, err := w.AddHost(ctx, x[0], x[1], x[2])
		must(t, err)
		hosts[x[0]] = h
	}
	web, api1, api2 := hosts["web"], hosts["api1"], hosts["api2"]
	must(t, w.StartServer(ctx, "mesh { trust_domain = \"test.example\" }\nservice \"web\" {"+instance(web)+"}\nservice \"api\" {\n  protocol = \"http\"\n"+instance(api1)+instance(api2)+"}\nintention \"api\" {\n  allow { from = [\"web\"] }\n}\n"))
	for _, h := range hosts {
		must(t, h.BringIn(ctx))
	}
	const url = "http://api.mesh:8080/"
	must(t, web.WaitFor(ctx, url, 200, 10*time.Second))
	status := func(code int, words ...string) {
		t.Helper()
		must(t, lab.Until(ctx, 10*time.Second, "status", func() error {
			out, got := w.Ask(ctx, "status")
			out = strings.Join(strings.Fields(out), " ") // lines are wrapped
			for _, word := range words {
				if !strings.Contains(out, word) {
					return errText("no " + word + " in " + out)
				}
			}
			if got != code {
				return errText(out)
			}
			return nil
		}))
	}
	status(0, "3 hosts in the mesh")

	r, err := web.LoadDuring(ctx, url, 100, 6*time.Second, func() error {
		time.Sleep(time.Second)
		if out, code := api1.Kerege(ctx, "capture", "remove"); code != 0 || !strings.Contains(out, "out of the mesh: api and of callers' endpoints (acknowledged)") {
			return errText(out)
		}
		return nil
	})
	must(t, err)
	none(t, "the capture of one of two is removed", r)
	same(t, ctx, api1)
	status(3, "api on api1 is out: its capture was removed by hand", "1 joined, nothing of it is in: api1")

	if out, code := api2.Kerege(ctx, "capture", "remove"); code != 0 {
		t.Fatalf("exit %d: %s", code, out)
	}
	must(t, web.WaitFor(ctx, url, 503, 5*time.Second))
	out, _ := w.Ask(ctx, "services", "api")
	out = strings.Join(strings.Fields(out), " ")
	for _, name := range []string{"api1", "api2"} {
		if !strings.Contains(out, "held: its capture was removed by hand; kerege capture apply on "+name) {
			t.Errorf("no reason of %s in %s", name, out)
		}
	}
	status(3, "api on api1 is out", "api on api2 is out")

	must(t, api1.Capture(ctx))
	must(t, web.WaitFor(ctx, url, 200, 10*time.Second))

	w.ServerProc.Kill()
	must(t, lab.Until(ctx, 10*time.Second, "the refusal", func() error {
		if out, code := api1.Kerege(ctx, "capture", "remove", "-timeout", "1s"); code == 0 || !strings.Contains(out, "cannot be told") || !strings.Contains(out, "-force") {
			t.Fatalf("without a server: exit %d: %s", code, out)
		}
		return nil
	}))
	must(t, web.WaitFor(ctx, url, 200, 5*time.Second))
	if out, code := api1.Kerege(ctx, "capture", "remove", "-force", "-timeout", "1s"); code != 0 || !strings.Contains(out, "no server has acknowledged it") {
		t.Errorf("forced: exit %d: %s", code, out)
	}
	same(t, ctx, api1)
	must(t, w.RunServer(ctx))
	status(3, "api on api1 is out")
}
