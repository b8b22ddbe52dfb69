//go:build e2e

package suite

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kerege/kerege/e2e/lab"
	"github.com/kerege/kerege/e2e/town"
)

const wireIntentions = `intention "db" {
  allow { from = ["web"] }
  deny  { from = ["grpcd"] }
}

intention "grpcd" {
  allow { from = ["web"] }
}
`

// wireTown is web, which calls; db, a TCP server that speaks first; and grpcd,
// which speaks HTTP/2 alone and may not call db.
func wireTown(t *testing.T) (context.Context, *town.Town, string) {
	t.Helper()
	ctx, w := newTown(t, false)
	programs := map[string][]string{
		"db":    {"banner", "-listen", ":8080"},
		"grpcd": {"serve", "-name", "grpcd", "-listen", ":8080", "-h2c"},
	}
	text := "mesh {\n  trust_domain = \"test.example\"\n}\n\n"
	for _, s := range [][2]string{{"web", "http"}, {"db", "tcp"}, {"grpcd", "grpc"}} {
		h, err := w.AddHost(ctx, s[0], s[0], "v1")
		must(t, err)
		h.Program = programs[s[0]]
		text += fmt.Sprintf("service %q {\n  protocol = %q\n%s}\n\n", s[0], s[1], instance(h))
	}
	text += wireIntentions
	must(t, w.StartServer(ctx, text))
	for _, name := range []string{"db", "grpcd", "web"} {
		must(t, w.Hosts[name].BringIn(ctx))
	}
	return ctx, w, text
}

// dial is what a host's program is told by a TCP server, and how it ends.
func dial(ctx context.Context, h *lab.Host, addr string) string {
	out, _ := h.Combined(ctx, lab.Spec{UID: town.UIDApp, Args: []string{h.App(), "dial", "-addr", addr, "-wait", "700ms"}})
	return strings.TrimSpace(out)
}

// A TCP caller is admitted in the handshake: nobody else gets a byte of a server
// that speaks first, nor does the server see a connection.
func TestTCPAndHTTP2(t *testing.T) {
	ctx, w, text := wireTown(t)
	web, db, grpcd := w.Hosts["web"], w.Hosts["db"], w.Hosts["grpcd"]
	connections := func() int { return strings.Count(db.Prog.Tail(1<<20), "connection ") }

	t.Run("allowed", func(t *testing.T) {
		must(t, lab.Until(ctx, 10*time.Second, "the banner", func() error {
			if got := dial(ctx, web.Host, "db.mesh:8080"); !strings.Contains(got, "hello from the banner") {
				return errText(got)
			}
			return nil
		}))
	})
	t.Run("nobody else gets a byte or a connection", func(t *testing.T) {
		before := connections()
		if before == 0 {
			t.Fatal("the allowed caller's connection was not seen")
		}
		addr := db.IP.String() + ":8080"
		for who, got := range map[string]string{
			"denied":                      dial(ctx, grpcd.Host, "db.mesh:8080"),
			"denied, by address":          dial(ctx, grpcd.Host, addr),
			"bare TCP":                    dial(ctx, w.Server, addr),
			"bare TCP from a mesh's host": rootDial(ctx, grpcd.Host, addr),
		} {
			if strings.Contains(got, "hello") || !strings.HasPrefix(got, "0 bytes") && !strings.HasPrefix(got, "app: ") {
				t.Errorf("%s: %s", who, got)
			}
		}
		out, _ := w.Server.Combined(ctx, lab.Spec{In: strings.NewReader(""), Args: []string{"timeout", "2", "openssl", "s_client", "-connect", addr, "-alpn", "kerege-tcp",
			"-servername", "8080.db.test.example", "-ign_eof"}})
		if strings.Contains(out, "hello") || !strings.Contains(out, "certificate required") {
			t.Errorf("no certificate: %s", out)
		}
		if after := connections(); after != before {
			t.Errorf("the server saw %d connections more", after-before)
		}
	})
	t.Run("a right taken away: the next connection gets nothing, and back", func(t *testing.T) {
		must(t, w.Apply(ctx, strings.Replace(text, wireIntentions, strings.Replace(wireIntentions, `allow { from = ["web"] }
  deny  { from = ["grpcd"] }`, `deny { from = ["web", "grpcd"] }`, 1), 1)))
		must(t, lab.Until(ctx, 2*time.Second, "web to be refused", func() error {
			if got := dial(ctx, web.Host, "db.mesh:8080"); strings.Contains(got, "hello") {
				return errText(got)
			}
			return nil
		}))
		must(t, w.Apply(ctx, text))
		must(t, lab.Until(ctx, 2*time.Second, "web to be let in", func() error {
			if got := dial(ctx, web.Host, "db.mesh:8080"); !strings.Contains(got, "hello") {
				return errText(got)
			}
			return nil
		}))
	})
	t.Run("HTTP/2 without TLS passes to a program that speaks it", func(t *testing.T) {
		out, err := web.Output(ctx, lab.Spec{UID: town.UIDApp, Args: []string{"curl", "-s", "--max-time", "5", "--http2-prior-knowledge", "-w", " %{http_version} %{http_code}", "http://grpcd.mesh:8080/x"}})
		if err != nil || !strings.HasSuffix(out, " 2 200") || !strings.Contains(out, "svc/web") {
			t.Errorf("got %q, %v", out, err)
		}
	})
}

// rootDial is dial as a user who is not captured.
func rootDial(ctx context.Context, h *lab.Host, addr string) string {
	out, _ := h.Combined(ctx, lab.Spec{Args: []string{h.App(), "dial", "-addr", addr, "-wait", "700ms"}})
	return strings.TrimSpace(out)
}
