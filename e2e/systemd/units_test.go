//go:build e2e

package systemd

import (
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kerege/kerege/e2e/lab"
)

// The units as shipped: systemd finds nothing wrong with them, they are shut in
// as tightly as promised, and a server runs under its own.
func TestUnits(t *testing.T) {
	ctx, w := newTown(t, false)
	r := newRoot(t, w, w.Server)
	must(t, r.Boot(ctx))
	t.Run("verify", func(t *testing.T) {
		out, code := r.Run(ctx, "systemd-analyze verify kerege-server.service kerege-agent.service kerege-envoy@web.service kerege-envoy-user@web.service kerege.slice")
		if code != 0 || strings.TrimSpace(out) != "" {
			t.Errorf("exit %d: %s", code, out)
		}
	})
	t.Run("security", func(t *testing.T) {
		level := regexp.MustCompile(`Overall exposure level for \S+: ([0-9.]+)`)
		for unit, most := range map[string]float64{"kerege-server.service": 2.0, "kerege-agent.service": 4.5, "kerege-envoy@.service": 3.0, "kerege-envoy-user@.service": 3.5} {
			out, _ := r.Run(ctx, "systemd-analyze security --no-pager --offline=yes /usr/lib/systemd/system/"+unit)
			m := level.FindStringSubmatch(out)
			if m == nil {
				t.Errorf("%s: %s", unit, out)
				continue
			}
			got, err := strconv.ParseFloat(m[1], 64)
			t.Logf("%s: %s", unit, m[1])
			if err != nil || got > most {
				t.Errorf("%s: exposure %s, at most %.1f:\n%s", unit, m[1], most, out)
			}
		}
	})
	t.Run("the server", func(t *testing.T) {
		must(t, r.Write("/etc/kerege.d/server.hcl", "addresses {\n  https = \"none\"\n}\n"))
		must(t, r.Write("/etc/kerege.d/mesh/mesh.hcl", "mesh {\n  trust_domain = \"prod.example\"\n}\n"))
		must(t, r.Write("/etc/systemd/system/kerege-server.service.d/fast.conf", "[Service]\nWatchdogSec=2\nWatchdogSignal=KILL\n"))
		run(t, ctx, r, "systemctl daemon-reload; systemctl start kerege-server")
		if out := run(t, ctx, r, "kerege status"); !strings.Contains(out, "prod.example") {
			t.Errorf("status: %s", out)
		}
		run(t, ctx, r, "systemctl reload kerege-server")
		fed(t, r, "kerege-server")
	})
	t.Run("the agent", func(t *testing.T) {
		must(t, r.Write("/etc/systemd/system/kerege-agent.service.d/fast.conf", "[Service]\nWatchdogSec=2\nWatchdogSignal=KILL\n"))
		run(t, ctx, r, "systemctl daemon-reload; systemctl start kerege-agent")
		must(t, r.Write("/etc/kerege.d/agent.hcl", "log_level = \"debug\"\n"))
		run(t, ctx, r, "systemctl reload kerege-agent")
		must(t, lab.Until(ctx, 5*time.Second, "the level to be read again", func() error {
			out, _ := r.Run(ctx, "journalctl -u kerege-agent --no-pager | grep log_level=debug")
			if out == "" {
				return errText("nothing in the journal")
			}
			return nil
		}))
		fed(t, r, "kerege-agent")
	})
}

type errText string

func (e errText) Error() string { return string(e) }

// fed shows that the watchdog is fed, and bites when the process hangs.
func fed(t *testing.T, r *Root, unit string) {
	t.Helper()
	ctx := t.Context()
	restarts := func() string { return strings.TrimSpace(run(t, ctx, r, "systemctl show -P NRestarts "+unit)) }
	deadline := time.Now().Add(5 * time.Second) // longer than the watchdog's two
	for time.Now().Before(deadline) {
		if n := restarts(); n != "0" {
			t.Fatalf("%s was restarted %s times: nobody feeds its watchdog", unit, n)
		}
		time.Sleep(200 * time.Millisecond)
	}
	run(t, ctx, r, "kill -STOP $(systemctl show -P MainPID "+unit+")")
	must(t, lab.Until(ctx, 15*time.Second, "a hanging "+unit+" to be started again", func() error {
		if out := restarts(); out != "1" {
			return errText("NRestarts=" + out)
		}
		out, code := r.Run(ctx, "systemctl is-active "+unit)
		if code != 0 {
			return errText(out)
		}
		return nil
	}))
}
