//go:build e2e

package suite

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/kerege/kerege/e2e/town"
)

func reload(ctx context.Context, h *town.Host) error {
	if out, code := h.Kerege(ctx, "envoy", "-service", h.Service, "-reload"); code != 0 {
		return fmt.Errorf("reloading the Envoy of %s: exit %d: %s", h.Name, code, out)
	}
	return nil
}

// Envoys are reloaded three times in a row, before the caller and before one of
// those that it calls; no call fails, of those either that nobody tries again (C3).
func TestEnvoysAreReloadedUnderLoad(t *testing.T) {
	ctx, w := newTown(t, false)
	text := meshOf(t, ctx, w, allowWeb)
	must(t, w.StartServer(ctx, text))
	for _, name := range []string{"api1", "api2", "web"} {
		w.Hosts[name].EnvoyExtra = "  drain_timeout = \"3s\"\n" // a further reload waits that long for connections that nobody uses
		must(t, w.Hosts[name].BringIn(ctx))
	}
	web := w.Hosts["web"]
	must(t, web.WaitFor(ctx, api+"/", 200, 10*time.Second))
	for _, name := range []string{"web", "api1"} {
		for _, way := range [][]string{{"-method", "POST"}, {"-method", "POST", "-fresh"}} {
			var took time.Duration
			r, err := web.LoadDuring(ctx, api+"/", 150, 12*time.Second, func() error {
				began := time.Now()
				defer func() { took = time.Since(began) }()
				for n := range 3 {
					time.Sleep(500 * time.Millisecond)
					if err := reload(ctx, w.Hosts[name]); err != nil {
						return err
					}
					// Configuration goes to both that are connected by now.
					if err := w.Apply(ctx, fmt.Sprintf("%s\n# reload %d of %s, %v\n", text, n, name, way)); err != nil {
						return err
					}
				}
				return nil
			}, way...)
			must(t, err)
			if took > 11*time.Second {
				t.Errorf("three reloads took %s: longer than there were calls", took)
			}
			none(t, fmt.Sprintf("Envoy of %s reloaded three times in %s, %v", name, took.Round(time.Millisecond), way), r)
		}
	}
}

// What is open at an Envoy from which another one has taken over goes on, and is
// cut when its caller loses the right.
func TestWhatIsOpenGoesOnThroughAReload(t *testing.T) {
	ctx, w, text := openTown(t)
	all := []string{"tcp", "download", "grpc"}
	mine, theirs := hold(t, ctx, w.Hosts["web"], all...), hold(t, ctx, w.Hosts["ops"], all...)
	for _, name := range []string{"api", "web"} {
		must(t, reload(ctx, w.Hosts[name]))
	}
	goOn(t, ctx, append(mine, theirs...))
	fresh := hold(t, ctx, w.Hosts["web"], all...) // through the new ones
	time.Sleep(500 * time.Millisecond)            // calls are told of after a quarter of a second
	began := time.Now()
	must(t, w.Apply(ctx, text[:len(text)-len(openBoth)]+"intention \"api\" {\n  allow { from = [\"ops\"] }\n}\n"))
	cutWithin(t, ctx, began, time.Now(), time.Second, append(mine, fresh...))
	goOn(t, ctx, theirs)
}
