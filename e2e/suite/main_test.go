//go:build e2e

// Package suite is the end-to-end suite: whole meshes in a lab, broken on purpose.
package suite

import (
	"context"
	"fmt"
	"os"
	"strings"
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

// newTown makes a town that is gone, and whose logs are shown on failure, at the test's end.
func newTown(t *testing.T, consul bool) (context.Context, *town.Town) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	t.Cleanup(cancel)
	w, err := town.New("krs", bin(), consul)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			showLogs(t, w)
		}
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return ctx, w
}

func showLogs(t *testing.T, w *town.Town) {
	show := func(what string, p *lab.Proc) {
		if p != nil {
			t.Logf("--- %s\n%s", what, p.Tail(3000))
		}
	}
	show("server", w.ServerProc)
	for name, h := range w.Hosts {
		show("agent on "+name, h.Agent)
		show("envoy on "+name, h.Envoy)
	}
}

// must fails the test at once.
func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// instance is a file's instance block for a host.
func instance(h *town.Host) string {
	return fmt.Sprintf(`
  instance %q {
    address = %q
    port    = 8080
    node    = %q
    meta    = { version = %q }
  }
`, h.Host.Name, h.IP, h.Host.Name, h.Version)
}

// pair is the smallest mesh: web may call api, which runs on two hosts.
func pair(t *testing.T, intention string) (context.Context, *town.Town, string) {
	t.Helper()
	ctx, w := newTown(t, false)
	text := meshOf(t, ctx, w, intention)
	must(t, w.StartServer(ctx, text))
	for _, h := range []string{"api1", "api2", "web"} {
		must(t, w.Hosts[h].BringIn(ctx))
	}
	return ctx, w, text
}

func meshOf(t *testing.T, ctx context.Context, w *town.Town, intention string) string {
	t.Helper()
	if len(w.Hosts) == 0 {
		for _, h := range [][3]string{{"web", "web", "v1"}, {"api1", "api", "v1"}, {"api2", "api", "v2"}} {
			_, err := w.AddHost(ctx, h[0], h[1], h[2])
			must(t, err)
		}
	}
	return fmt.Sprintf(`mesh {
  trust_domain = "test.example"
}

service "web" {
  protocol = "http"
%s}

service "api" {
  protocol = "http"
%s%s
  subset "v1" { filter = "Service.Meta.version == v1" }
  subset "v2" { filter = "Service.Meta.version == v2" }

  outlier {
    consecutive_5xx = 3
    interval        = "1s"
    eject           = "2s"
  }
}

%s`, instance(w.Hosts["web"]), instance(w.Hosts["api1"]), instance(w.Hosts["api2"]), intention)
}

const allowWeb = `intention "api" {
  allow { from = ["web"] }
}
`

const api = "http://api.mesh:8080"

// none fails the test when a call failed.
func none(t *testing.T, what string, r town.Report) {
	t.Helper()
	t.Logf("%s: %d calls, %d failed, p50 %s p99 %s max %s", what, r.Calls, r.Failed, r.P50, r.P99, r.Max)
	if r.Failed > 0 || r.Calls == 0 || r.ByCode["403"] > 0 {
		for text := range r.Errors {
			if len(r.Errors) > 3 {
				delete(r.Errors, text)
			}
		}
		t.Errorf("%s: %+v", what, r)
	}
}

// prefixed fails the test when an answer does not begin as it should.
func prefixed(t *testing.T, got, prefix string, err error) {
	t.Helper()
	if err != nil || !strings.HasPrefix(got, prefix) {
		t.Errorf("got %q, %v; it should begin with %q", got, err, prefix)
	}
}

// bin is the folder that `make build` fills, or what the environment names.
func bin() string {
	if dir := os.Getenv("KEREGE_BIN"); dir != "" {
		return dir
	}
	return "../../bin"
}
