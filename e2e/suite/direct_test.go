//go:build e2e

package suite

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kerege/kerege/e2e/lab"
)

// A program that balances by itself dials instances' own addresses: it gets that
// very instance, by mTLS and as who it is, and the same rules hold.
func TestDialedDirectly(t *testing.T) {
	ctx, w := newTown(t, false)
	for _, h := range [][3]string{{"web", "web", "v1"}, {"batch", "batch", "v1"}, {"api1", "api", "v1"}, {"api2", "api", "v2"}, {"api3", "api", "v3"}} {
		_, err := w.AddHost(ctx, h[0], h[1], h[2])
		must(t, err)
	}
	hosts := w.Hosts
	web, batch := hosts["web"], hosts["batch"]
	text := func(more string, api ...string) string {
		s := fmt.Sprintf("mesh {\n  trust_domain = \"test.example\"\n}\n\nservice \"web\" {\n  protocol = \"http\"\n%s}\n\nservice \"batch\" {\n  protocol = \"http\"\n%s}\n\nservice \"api\" {\n  protocol = \"http\"\n%s",
			instance(web), instance(batch), more)
		for _, name := range api {
			s += instance(hosts[name])
		}
		return s + "}\n\nintention \"api\" {\n  allow { from = [\"web\"] }\n  deny { from = [\"batch\"] }\n}\n"
	}
	const dialed = "  dialed_directly = true\n"
	must(t, w.StartServer(ctx, text("", "api1", "api2")))
	for _, name := range []string{"api1", "api2", "web", "batch"} {
		must(t, hosts[name].BringIn(ctx))
	}
	must(t, hosts["api3"].StartProgram(ctx)) // not in the mesh
	url := func(name string) string { return "http://" + hosts[name].IP.String() + ":8080" }
	must(t, web.WaitFor(ctx, api+"/", 200, 10*time.Second))
	must(t, web.WaitFor(ctx, url("api1")+"/", 502, 5*time.Second)) // unless the service says so
	got, err := web.Get(ctx, url("api1")+"/")
	if err != nil || !strings.Contains(got, "outbound is") {
		t.Errorf("not dialed directly: %s %v", got, err)
	}
	must(t, w.WriteMesh(text(dialed, "api1", "api2")))
	if out, code := w.Ask(ctx, "plan"); code > 2 || !strings.Contains(out, "0 listeners drain") {
		t.Errorf("plan: %d: %s", code, out)
	}
	must(t, w.Apply(ctx, text(dialed, "api1", "api2")))

	t.Run("it is that instance, and knows its caller", func(t *testing.T) {
		for name, version := range map[string]string{"api1": "v1", "api2": "v2"} {
			must(t, web.WaitFor(ctx, url(name)+"/", 200, 5*time.Second))
			for range 5 {
				got, err := web.Get(ctx, url(name)+"/")
				if err != nil || !strings.Contains(got, `\"version\":\"`+version) || !strings.Contains(got, `URI=spiffe://test.example/svc/web`) {
					t.Errorf("%s: %s %v", name, got, err)
				}
			}
		}
	})
	t.Run("the same rules hold", func(t *testing.T) {
		must(t, batch.WaitFor(ctx, url("api1")+"/", 403, 5*time.Second))
		got, err := batch.Get(ctx, url("api1")+"/")
		if err != nil || !strings.Contains(got, "svc/batch may not call this") {
			t.Errorf("%s %v", got, err)
		}
	})
	t.Run("instances come and go: the others' connections stay", func(t *testing.T) {
		conn, err := web.Hold(url("api1"))
		must(t, err)
		defer conn.Close()
		ask := func(want string) {
			t.Helper()
			if got, err := conn.Call("/"); err != nil || !strings.HasPrefix(got, want) {
				t.Errorf("got %q, %v; want %s", got, err, want)
			}
		}
		ask("200 new")
		r, err := web.LoadDuring(ctx, url("api1")+"/", 100, 6*time.Second, func() error {
			for _, list := range [][]string{{"api1"}, {"api1", "api2", "api3"}, {"api1", "api3"}, {"api1", "api2", "api3"}} {
				if err := w.Apply(ctx, text(dialed, list...)); err != nil {
					return err
				}
				time.Sleep(time.Second)
				ask("200 reused")
			}
			return nil
		})
		must(t, err)
		none(t, "instances come and go", r)
		must(t, web.WaitFor(ctx, url("api2")+"/", 200, 5*time.Second))
	})
	t.Run("one that is not in the mesh is held, until it is", func(t *testing.T) {
		must(t, web.WaitFor(ctx, url("api3")+"/", 503, 5*time.Second))
		got, err := web.Get(ctx, url("api3")+"/")
		if err != nil || !strings.Contains(got, "is held back") {
			t.Errorf("%s %v", got, err)
		}
		must(t, hosts["api3"].BringInRunning(ctx))
		must(t, lab.Until(ctx, 5*time.Second, "v3 to answer", func() error {
			return answers(ctx, web.Get, url("api3")+"/", `\"version\":\"v3`)
		}))
	})
	t.Run("permissive: plaintext where it is not in", func(t *testing.T) {
		if out, code := hosts["api3"].Kerege(ctx, "leave"); code != 0 {
			t.Fatalf("leave: %d: %s", code, out)
		}
		must(t, w.Apply(ctx, text(dialed+"  mtls = \"permissive\"\n", "api1", "api3")))
		must(t, lab.Until(ctx, 5*time.Second, "v3 to answer, without a caller", func() error {
			got, err := web.Get(ctx, url("api3")+"/")
			if err == nil && (!strings.Contains(got, `\"version\":\"v3`) || strings.Contains(got, "spiffe")) {
				return errText(got)
			}
			return err
		}))
		must(t, lab.Until(ctx, 5*time.Second, "v1 to answer by mTLS", func() error {
			return answers(ctx, web.Get, url("api1")+"/", "svc/web")
		}))
	})
	t.Run("explain tells of it", func(t *testing.T) {
		if out, code := w.Ask(ctx, "explain", "-from", "web", "-to", "api"); !strings.Contains(out, "dials an instance's own address") || !strings.Contains(out, hosts["api1"].IP.String()+":8080, mTLS") {
			t.Errorf("%d: %s", code, out)
		}
	})
}

// A TCP server that speaks first, dialed at its own address.
func TestTCPDialedDirectly(t *testing.T) {
	ctx, w, text := wireTown(t)
	web, db, grpcd := w.Hosts["web"], w.Hosts["db"], w.Hosts["grpcd"]
	addr := db.IP.String() + ":8080"
	if got := dial(ctx, web.Host, addr); strings.Contains(got, "hello") {
		t.Errorf("not dialed directly: %s", got)
	}
	must(t, w.Apply(ctx, strings.Replace(text, `service "db" {`, "service \"db\" {\n  dialed_directly = true", 1)))
	must(t, lab.Until(ctx, 5*time.Second, "the banner", func() error {
		if got := dial(ctx, web.Host, addr); !strings.Contains(got, "hello from the banner") {
			return errText(got)
		}
		return nil
	}))
	before := strings.Count(db.Prog.Tail(1<<20), "connection ")
	if got := dial(ctx, grpcd.Host, addr); strings.Contains(got, "hello") {
		t.Errorf("denied: %s", got)
	}
	if after := strings.Count(db.Prog.Tail(1<<20), "connection "); after != before {
		t.Errorf("a denied caller made %d connections", after-before)
	}
}
