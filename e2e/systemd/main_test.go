//go:build e2e

package systemd

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/kerege/kerege/e2e/lab"
	"github.com/kerege/kerege/e2e/town"
)

func TestMain(m *testing.M) {
	if !lab.Inside() {
		code, err := lab.Enter()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(code)
	}
	os.Exit(m.Run())
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// newTown makes a town that is gone at the test's end.
func newTown(t *testing.T, consul bool) (context.Context, *town.Town) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	w, err := town.New("krd", "../../bin", consul)
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() {
			for _, h := range w.Hosts {
				if h.Agent != nil {
					t.Logf("--- agent on %s\n%s", h.Name, h.Agent.Tail(2000))
				}
			}
			if w.ServerProc != nil {
				t.Logf("--- server\n%s", w.ServerProc.Tail(3000))
			}
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return ctx, w
}

// newRoot makes a host of the town whose root is gone at the test's end, and
// whose journal is shown on failure.
func newRoot(t *testing.T, w *town.Town, h *lab.Host) *Root {
	t.Helper()
	r, err := New(h, "../../systemd", Programs{Kerege: w.Kerege, App: w.App, Envoy: w.EnvoyPath})
	must(t, err)
	t.Cleanup(func() {
		if t.Failed() && r.pid != 0 {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			out, _ := r.Run(ctx, "journalctl -b --no-pager | tail -400; iptables-save -t nat | grep -v '^#' | head -60")
			t.Logf("--- %s\n%s", r.Name, out)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// run types a line that must succeed.
func run(t *testing.T, ctx context.Context, r *Root, line string) string {
	t.Helper()
	out, code := r.Run(ctx, line)
	if code != 0 {
		t.Fatalf("`%s` on %s exits %d: %s", line, r.Name, code, out)
	}
	return out
}
