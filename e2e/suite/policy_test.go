//go:build e2e

package suite

import (
	"context"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kerege/kerege/e2e/lab"
	"github.com/kerege/kerege/e2e/town"
)

func bothAnswer(t *testing.T, ctx context.Context, load func(context.Context, string, int, time.Duration, ...string) (town.Report, error)) {
	t.Helper()
	must(t, lab.Until(ctx, 45*time.Second, "both versions to answer", func() error {
		r, err := load(ctx, api+"/", 50, time.Second)
		if err == nil && (r.ByServer["v1"] == 0 || r.ByServer["v2"] == 0) {
			return errText("only one version")
		}
		return err
	}))
}

// Default deny, exact identities, and a right that comes and goes on an open connection.
func TestPolicy(t *testing.T) {
	ctx, w, text := pair(t, allowWeb)
	web, api1 := w.Hosts["web"], w.Hosts["api1"]
	must(t, web.WaitFor(ctx, api+"/", 200, 10*time.Second))

	t.Run("no intention: 403 that names it", func(t *testing.T) {
		got, err := api1.Get(ctx, "http://web.mesh:8080/")
		prefixed(t, got, "403 ", err)
		if !strings.Contains(got, `intention`) || !strings.Contains(got, "web") {
			t.Errorf("the refusal does not say what is missing: %s", got)
		}
	})
	t.Run("plaintext from outside is refused by a strict port", func(t *testing.T) {
		out, code := w.Server.Combined(ctx, lab.Spec{Args: []string{"curl", "-s", "--max-time", "3", "-o", "/dev/null", "-w", "%{http_code}", "http://" + api1.IP.String() + ":8080/"}})
		if code == 0 && !strings.HasPrefix(out, "000") {
			t.Errorf("plaintext was answered: %s", out)
		}
	})
	t.Run("a right taken away and given back on the same connection", func(t *testing.T) {
		conn, err := web.Hold(api)
		must(t, err)
		defer conn.Close()
		got, err := conn.Call("/1")
		prefixed(t, got, "200 ", err)
		must(t, w.Apply(ctx, strings.Replace(text, allowWeb, "intention \"api\" {\n  deny { from = [\"web\"] }\n}\n", 1)))
		began := time.Now()
		for got, err = conn.Call("/2"); err == nil && strings.HasPrefix(got, "200 ") && time.Since(began) < 2*time.Second; {
			got, err = conn.Call("/2")
		}
		prefixed(t, got, "403 reused", err)
		t.Logf("allow to deny after apply: %s", time.Since(began))
		must(t, w.Apply(ctx, text))
		began = time.Now()
		for got, err = conn.Call("/3"); err == nil && strings.HasPrefix(got, "403 ") && time.Since(began) < 2*time.Second; {
			got, err = conn.Call("/3")
		}
		prefixed(t, got, "200 reused", err)
		t.Logf("deny to allow after apply: %s", time.Since(began))
	})
	t.Run("a malformed request ends no call but itself", func(t *testing.T) {
		stream, err := web.Stream(api + "/stream/3000")
		must(t, err)
		time.Sleep(500 * time.Millisecond) // it is under way, on the connection that all share
		for range 4 {
			for _, host := range []string{"Host: a@b", "Host;"} { // the second is an empty one
				out, _ := web.Combined(ctx, lab.Spec{UID: town.UIDApp, Args: []string{"curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-H", host, api + "/"}})
				if !strings.HasPrefix(out, "4") && !strings.HasPrefix(out, "5") {
					t.Errorf("%s: %s", host, out)
				}
			}
		}
		select {
		case <-stream.Done():
			t.Errorf("another's stream was cut: %s", stream.Tail(200))
		case <-time.After(500 * time.Millisecond):
		}
		stream.Kill()
		must(t, web.WaitFor(ctx, api+"/", 200, 10*time.Second)) // some hosts may have been ejected meanwhile
	})
	t.Run("methods and paths", func(t *testing.T) {
		must(t, w.Apply(ctx, strings.Replace(text, allowWeb, `intention "api" {
  allow {
    from        = ["web"]
    methods     = ["GET"]
    path_prefix = "/v1"
  }

  deny {
    name        = "admin-closed"
    from        = ["*"]
    path_prefix = "/v1/admin"
  }
}
`, 1)))
		must(t, web.WaitFor(ctx, api+"/v1/items", 200, 5*time.Second))
		for path, status := range map[string]string{
			"/v1": "200", "/v1/x?y=/v1/admin": "200", "/v2": "403", "/v10": "403", "/v1/admin": "403", "/v1/admin/x": "403",
			"/v1/./admin": "403", "/v1//admin": "403", "/v1/x/../admin": "403", "/v1/%61dmin": "403", "/v1/x%2f..%2fadmin": "400",
		} {
			out, err := web.Output(ctx, lab.Spec{UID: town.UIDApp, Args: []string{"curl", "-s", "--path-as-is", "-o", "/dev/null", "-w", "%{http_code}", api + path}})
			if err != nil || strings.TrimSpace(out) != status {
				t.Errorf("GET %s: got %s, %v; want %s", path, out, err, status)
			}
		}
		out, err := web.Output(ctx, lab.Spec{UID: town.UIDApp, Args: []string{"curl", "-s", "-X", "POST", "-o", "/dev/null", "-w", "%{http_code}", api + "/v1/items"}})
		if err != nil || strings.TrimSpace(out) != "403" {
			t.Errorf("POST: got %s, %v", out, err)
		}
	})
	t.Run("bad HCL changes nothing", func(t *testing.T) {
		must(t, w.WriteMesh(text+"\nroute \"api\" {\n  rule \"x\" {\n    to \"apj\" {}\n  }\n}\n"))
		out, code := w.Ask(ctx, "apply")
		if code != 1 || !strings.Contains(out, "mesh.hcl:") || !strings.Contains(out, `"apj"`) || !strings.Contains(out, "nothing was applied") {
			t.Errorf("exit %d: %s", code, out)
		}
		got, err := web.Get(ctx, api+"/v1/items")
		prefixed(t, got, "200 ", err)
	})
}

// Weights change ten times and a route appears, under load: nothing is touched (C11).
func TestRoutesChangeUnderLoad(t *testing.T) {
	ctx, w, text := pair(t, allowWeb)
	web := w.Hosts["web"]
	must(t, web.WaitFor(ctx, api+"/", 200, 10*time.Second))
	stream, err := web.Stream(api + "/stream/3000")
	must(t, err)
	r, err := web.LoadDuring(ctx, api+"/", 200, 8*time.Second, func() error {
		for weight := 0; weight <= 100; weight += 10 {
			rule := "route \"api\" {\n  rule \"split\" {\n    to \"api.v2\" { weight = " + strconv.Itoa(weight) + " }\n    to \"api.v1\" {}\n  }\n}\n"
			if err := w.Apply(ctx, text+"\n"+rule); err != nil {
				return err
			}
			time.Sleep(300 * time.Millisecond)
		}
		return nil
	})
	must(t, err)
	none(t, "eleven changes of weight", r)
	select {
	case <-stream.Done():
		t.Errorf("the stream was cut: %s", stream.Tail(200))
	default:
	}
	out, code := w.Ask(ctx, "proxies")
	if code != 0 {
		t.Errorf("proxies: exit %d: %s", code, out)
	}
}
