//go:build e2e

package xds

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/plan"
)

// dying takes calls and, of each pair of them, ends the first one's connection
// as a program does that is killed: before its answer, or in the midst of it.
func dying(calls *atomic.Int64) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		if calls.Add(1)%2 == 0 {
			fmt.Fprint(w, "whole")
			return
		}
		if r.URL.Path == "/begun" {
			w.Header().Set("content-length", "100")
			fmt.Fprint(w, "begun")
			http.NewResponseController(w).Flush()
		}
		c, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			c.Close()
		}
	})
}

// What a program has taken and not answered is tried again by default for
// methods that change nothing, and for them alone.
func TestCallsThatGetNoAnswer(t *testing.T) {
	ca := newTestCA(t)
	var calls atomic.Int64
	app, _ := listenOn(t, dying(&calls))
	ports := freePorts(t, 2)
	policy := testPolicy("api", 8080, "web")
	api := startEnvoy(t, ca, destination(ca, testInbound("api", ports[0], 8080, mesh.ProtocolHTTP, policy), app))
	up := func(r plan.Retry) *plan.Proxy {
		u := testUpstream("api", 8080, mesh.ProtocolHTTP, local(ports[0]))
		u.Ports[0].Clusters[0].Outlier.Off = true
		u.Ports[0].Route.Rules[0].Retry = r
		return caller("web", map[uint16]*plan.Upstream{ports[1]: u})
	}
	stated := plan.Retry{Times: 2, On: mesh.DefaultRetryOn(), Safe: true, Backoff: time.Millisecond}
	named, any, never := stated, stated, stated
	named.Safe, any.AnyMethod, never.Times = false, true, 0
	web := startEnvoy(t, ca, up(stated))

	for _, x := range []struct {
		name  string
		retry plan.Retry
		again []string // methods
		once  []string
	}{
		{"stated", stated, []string{"GET", "OPTIONS", "HEAD"}, []string{"POST", "PUT", "DELETE", "PATCH", "PROPFIND"}},
		{"named", named, []string{"GET", "PUT", "DELETE"}, []string{"POST", "PATCH"}},
		{"any", any, []string{"GET", "POST"}, nil},
		{"never", never, nil, []string{"GET", "POST"}},
	} {
		web.apply(t, up(x.retry))
		call := func(method, path string) (code int, body string, took int64, err error) {
			before := calls.Load()
			if before%2 != 0 {
				calls.Add(1)
				before++
			}
			req, _ := http.NewRequest(method, fmt.Sprintf("http://127.0.0.1:%d%s", ports[1], path), strings.NewReader("x"))
			req.Header.Set("x-envoy-retry-on", "reset,5xx") // an application that would like more
			req.Header.Set("x-envoy-max-retries", "9")
			res, err := http.DefaultClient.Do(req)
			if err != nil {
				return 0, "", calls.Load() - before, err
			}
			defer res.Body.Close()
			b, err := io.ReadAll(res.Body)
			return res.StatusCode, string(b), calls.Load() - before, err
		}
		first, want := "GET", int64(2)
		if len(x.again) == 0 {
			want = 1
		}
		if x.name == "named" || x.name == "any" {
			first = x.again[len(x.again)-1] // what the case before did not try again
		}
		eventually(t, 5*time.Second, func() error {
			if code, _, took, err := call(first, "/"); took != want {
				return fmt.Errorf("%s: %s: %d, taken %d times, %v", x.name, first, code, took, err)
			}
			return nil
		})
		for _, m := range x.again {
			if code, body, took, err := call(m, "/"); code != 200 || took != 2 || err != nil || m != "HEAD" && body != "whole" {
				t.Errorf("%s: %s: %d %q, taken %d times, %v", x.name, m, code, body, took, err)
			}
			if m == "HEAD" {
				continue
			}
			if code, body, took, err := call(m, "/begun"); code != 200 || took != 1 || err == nil || body != "begun" {
				t.Errorf("%s: %s whose answer had begun: %d %q, taken %d times, %v", x.name, m, code, body, took, err)
			}
		}
		for _, m := range x.once {
			if code, _, took, err := call(m, "/"); code != 503 || took != 1 || err != nil {
				t.Errorf("%s: %s: %d, taken %d times, %v", x.name, m, code, took, err)
			}
		}
	}
	api.clean(t)
	web.clean(t)
}
