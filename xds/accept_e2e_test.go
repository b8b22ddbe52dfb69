//go:build e2e

package xds

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/plan"
)

// Every word that this room knows is accepted by a real Envoy, in one namespace
// after another, since each case opens the same ports.
func TestEnvoyAcceptsEveryCase(t *testing.T) {
	if inside := os.Getenv("KR_XDS_CASE"); inside != "" {
		sh(t, "ip link set lo up")
		ca := newTestCA(t)
		p := cases()[inside]
		for _, in := range p.Inbound {
			in.Policy.Bundle = ca.pem
		}
		startEnvoy(t, ca, p).clean(t)
		return
	}
	for _, name := range sortedKeys(cases()) {
		t.Run(name, func(t *testing.T) {
			cmd := exec.Command("/proc/self/exe", "-test.run=^TestEnvoyAcceptsEveryCase$", "-test.v")
			cmd.Env = append(os.Environ(), "KR_XDS_CASE="+name)
			cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// The same for what a user can write.
func TestEnvoyAcceptsTheLanguage(t *testing.T) {
	if inside := os.Getenv("KR_XDS_FILE"); inside != "" {
		sh(t, "ip link set lo up")
		ca := newTestCA(t)
		plans := languagePlans(t, inside, ca.pem)
		name := sortedKeys(plans)[0]
		if len(plans[name].Outbound) == 0 {
			t.Errorf("%s calls nobody", name)
		}
		startEnvoy(t, ca, plans[name]).clean(t)
		return
	}
	for _, path := range languageFiles(t) {
		t.Run(filepath.Base(path), func(t *testing.T) {
			cmd := exec.Command("/proc/self/exe", "-test.run=^TestEnvoyAcceptsTheLanguage$", "-test.v")
			cmd.Env = append(os.Environ(), "KR_XDS_FILE="+path)
			cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

func TestRoutesDoWhatTheySay(t *testing.T) {
	ca := newTestCA(t)
	ports := freePorts(t, 2)
	var flaky atomic.Int64
	app, _ := listenOn(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/flaky") && flaky.Add(1)%2 == 1 {
			w.WriteHeader(503)
			return
		}
		w.Header().Set("x-from", "app")
		fmt.Fprintf(w, "%s %s host=%s set=%s", r.Method, r.URL, r.Host, r.Header.Get("x-set"))
	}))
	api := startEnvoy(t, ca, destination(ca, testInbound("api", ports[0], 8080, mesh.ProtocolHTTP, testPolicy("api", 8080, "web")), app))
	up := testUpstream("api", 8080, mesh.ProtocolHTTP, local(ports[0]))
	r := up.Ports[0].Route
	to := []plan.Weighted{{Cluster: "api:8080", Weight: 10000}}
	rule := func(m mesh.Match, f func(*plan.RouteRule)) plan.RouteRule {
		out := plan.RouteRule{Matches: []mesh.Match{m}, To: to, Timeout: mesh.None, Idle: mesh.None}
		f(&out)
		return out
	}
	under := func(p string) mesh.Match { return mesh.Match{PathPrefix: p} }
	r.Rules = append([]plan.RouteRule{
		rule(under("/old"), func(r *plan.RouteRule) { r.To, r.Redirect = nil, &mesh.Redirect{Code: 308, PathPrefix: "/new"} }),
		rule(under("/tail"), func(r *plan.RouteRule) { r.To, r.Redirect = nil, &mesh.Redirect{Code: 302, PathPrefix: "/"} }),
		rule(under("/gone"), func(r *plan.RouteRule) { r.To, r.Respond = nil, &mesh.Respond{Status: 410, Body: "gone"} }),
		rule(under("/api/"), func(r *plan.RouteRule) { r.Rewrite = &mesh.Rewrite{PathPrefix: "/", Host: "inner"} }),
		rule(under("/v1"), func(r *plan.RouteRule) { r.Rewrite = &mesh.Rewrite{PathPrefix: "/v2/"} }),
		rule(under("/whole"), func(r *plan.RouteRule) { r.Rewrite = &mesh.Rewrite{Path: `/a\1`} }),
		rule(mesh.Match{PathRegex: "/item/([0-9]+)"}, func(r *plan.RouteRule) { r.Rewrite = &mesh.Rewrite{PathRegex: `/things/\1`} }),
		rule(mesh.Match{PathPrefix: "/m", Methods: []string{"POST", "PUT"}}, func(r *plan.RouteRule) { r.Respond, r.To = &mesh.Respond{Status: 204}, nil }),
		rule(mesh.Match{Headers: []mesh.ValueMatch{{Name: "x-canary", Exact: pointer("1")}}}, func(r *plan.RouteRule) {
			r.RequestHeaders = &mesh.HeaderOps{Set: map[string]string{"x-set": "100%"}}
			r.ResponseHeaders = &mesh.HeaderOps{Remove: []string{"X-From"}}
		}),
		rule(mesh.Match{PathPrefix: "/plain", Headers: []mesh.ValueMatch{{Name: "x-tier", Exact: pointer("gold"), Invert: true}}}, func(r *plan.RouteRule) {
			r.To, r.Respond = nil, &mesh.Respond{Status: 200, Body: "not gold"}
		}),
		rule(mesh.Match{PathPrefix: "/q", Query: []mesh.ValueMatch{{Name: "k", Prefix: pointer("v")}}}, func(r *plan.RouteRule) { r.To, r.Respond = nil, &mesh.Respond{Status: 200, Body: "query"} }),
		rule(under("/flaky"), func(r *plan.RouteRule) {
			r.Retry = plan.Retry{Times: 1, On: []string{"connect-failure", "503"}, Backoff: time.Millisecond, BackoffMax: time.Millisecond}
		}),
	}, r.Rules...)
	web := startEnvoy(t, ca, caller("web", map[uint16]*plan.Upstream{ports[1]: up}))
	client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, Timeout: 5 * time.Second}
	base := "http://" + local(ports[1]).String()
	host := " host=" + local(ports[1]).String() + " set="
	for _, c := range []struct{ method, path, header, want string }{
		{"GET", "/old", "", "308 " + base + "/new"},
		{"GET", "/old/x?y=1", "", "308 " + base + "/new/x?y=1"},
		{"GET", "/tail/x", "", "302 " + base + "/x"},
		{"GET", "/older", "", "200 GET /older" + host},
		{"GET", "/gone/x", "", "410 gone"},
		{"GET", "/api", "", "200 GET / host=inner set="},
		{"GET", "/api/x?y=1", "", "200 GET /x?y=1 host=inner set="},
		{"GET", "/v1/x", "", "200 GET /v2/x" + host},
		{"GET", "/v1", "", "200 GET /v2" + host},
		{"GET", "/whole/x?y=1", "", `200 GET /a/1?y=1` + host},
		{"GET", "/item/7", "", "200 GET /things/7" + host},
		{"GET", "/item/7/x", "", "200 GET /item/7/x" + host},
		{"POST", "/m", "", "204 "},
		{"GET", "/m", "", "200 GET /m" + host},
		{"GET", "/c", "x-canary: 1", "200 GET /c" + host + "100% (no x-from)"},
		{"GET", "/plain", "", "200 not gold"},
		{"GET", "/plain", "x-tier: gold", "200 GET /plain" + host},
		{"GET", "/q?k=very", "", "200 query"},
		{"GET", "/q?k=no", "", "200 GET /q?k=no" + host},
		{"GET", "/flaky", "", "200 GET /flaky" + host}, // once refused, tried again
		{"POST", "/flaky", "", "503 "},                 // once refused, and not safe to try again
	} {
		req, _ := http.NewRequest(c.method, base+c.path, nil)
		if k, v, ok := strings.Cut(c.header, ": "); ok {
			req.Header.Set(k, v)
		}
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(res.Body)
		res.Body.Close()
		got := fmt.Sprint(res.StatusCode, " ", string(b), res.Header.Get("Location"))
		if c.header == "x-canary: 1" && res.Header.Get("x-from") == "" {
			got += " (no x-from)"
		}
		if got != c.want {
			t.Errorf("%s %s %s: %s, want %s", c.method, c.path, c.header, got, c.want)
		}
	}
	api.clean(t)
	web.clean(t)
}
