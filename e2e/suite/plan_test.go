//go:build e2e

package suite

import (
	"fmt"
	"strings"
	"testing"

	"github.com/kerege/kerege/e2e/lab"
	"github.com/kerege/kerege/e2e/town"
)

// The page that an operator reads before anything is captured says who calls, who
// of them is in the mesh, and what strict would do to the others; and strict stops
// unless their number is accepted.
func TestThePlanOfALiveHost(t *testing.T) {
	ctx, w := consulTown(t)
	must(t, w.StartServer(ctx, adopting))
	web, api1 := w.Hosts["web"], w.Hosts["api1"]
	for _, h := range []*town.Host{web, api1} {
		must(t, h.StartAgent(ctx))
		must(t, h.Join(ctx))
	}
	for _, h := range []*lab.Host{web.Host, w.Hosts["api2"].Host, w.ConsulHost} {
		c, err := h.Dial(ctx, "tcp", fmt.Sprintf("%s:8080", api1.IP))
		must(t, err)
		defer c.Close()
	}
	c, err := api1.DialFrom(ctx, "", "tcp", fmt.Sprintf("%s:8500", w.ConsulHost.IP))
	must(t, err)
	defer c.Close()
	plan := func(h *town.Host, want int, args ...string) string {
		t.Helper()
		out, code := h.Kerege(ctx, append([]string{"capture", "plan"}, args...)...)
		t.Logf("exit %d\n%s", code, out)
		if code != want {
			t.Errorf("exit %d, not %d", code, want)
		}
		return out
	}
	says := func(out string, lines ...string) {
		t.Helper()
		for _, line := range lines {
			if !strings.Contains(out, line) {
				t.Errorf("it does not say %q", line)
			}
		}
	}
	out := plan(api1, 2)
	says(out, "workload api   uid 2001, :8080", "Callers now: 3 connections from 3 hosts, 0 of them in the mesh",
		"permissive: all go on. (strict would refuse all 3:", "checks pass.  Apply: kerege capture apply")
	if strings.Contains(out, "stop:") || strings.Contains(out, "(uid 2001)") {
		t.Error("it stops, or says a number twice")
	}
	for _, h := range []string{"web", "api2"} {
		says(out, h) // by name
	}

	must(t, web.StartEnvoy(ctx))
	must(t, web.WaitReady(ctx))
	must(t, web.Capture(ctx))
	out = plan(api1, 2)
	says(out, "3 hosts, 1 of them in the mesh", "(strict would refuse 2: ", " api2)")

	must(t, w.Apply(ctx, strings.Replace(adopting, `"permissive"`, `"strict"`, 1)))
	must(t, lab.Until(ctx, 5e9, "the agent to hear of it", func() error {
		if out, _ := api1.Kerege(ctx, "capture", "plan"); !strings.Contains(out, "strict: 2 would be refused: ") {
			return fmt.Errorf("it says\n%s", out)
		}
		return nil
	}))
	says(plan(api1, 2), "stop: ", "-accept-refusals 2", "Nothing was changed.")
	if out, code := api1.Kerege(ctx, "capture", "apply"); code == 0 || !strings.Contains(out, "would be refused") {
		t.Errorf("it was applied: exit %d: %s", code, out)
	}
	if out := plan(api1, 2, "-accept-refusals", "2"); strings.Contains(out, "stop:") {
		t.Error("it stops though that was accepted")
	}
	must(t, api1.StartEnvoy(ctx))
	must(t, api1.WaitReady(ctx))
	if out, code := api1.Kerege(ctx, "capture", "apply", "-accept-refusals", "2"); code != 0 {
		t.Errorf("it was not applied: exit %d: %s", code, out)
	}
}
