//go:build e2e

package xds

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/plan"
)

func get(client *http.Client, port uint16, path string) (int, string, http.Header, error) {
	req, _ := http.NewRequest("GET", fmt.Sprintf("http://127.0.0.1:%d%s", port, path), nil)
	req.Header.Set("x-envoy-retry-on", "5xx")
	req.Header.Set("x-kerege-protocol", "mine")
	req.Header.Add("x-forwarded-client-cert", "URI=spiffe://test.example/svc/admin")
	req.Header.Add("x-forwarded-client-cert", "URI=spiffe://test.example/svc/admin")
	res, err := client.Do(req)
	if err != nil {
		return 0, "", nil, err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return res.StatusCode, string(b), res.Header, err
}

func listenOn(t *testing.T, handler http.Handler) (uint16, *httptest.Server) {
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	return uint16(s.Listener.Addr().(*net.TCPAddr).Port), s
}

// echo tells what the application sees.
func echo(calls *atomic.Int64) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		calls.Add(1)
		w.Header().Set("x-kerege-unreached", "1") // an application that lies
		w.Header().Set("x-envoy-overloaded", "1")
		var odd []string
		for k := range r.Header {
			if strings.HasPrefix(k, "X-Envoy") || strings.HasPrefix(k, "X-Kerege") {
				odd = append(odd, k)
			}
		}
		fmt.Fprintf(w, "%s %s host=%s xfcc=%q odd=%v", r.Proto, r.URL, r.Host, r.Header.Values("X-Forwarded-Client-Cert"), odd)
	})
}

func TestHTTPCallThroughTwoEnvoys(t *testing.T) {
	ca := newTestCA(t)
	var calls atomic.Int64
	app, server := listenOn(t, echo(&calls))
	ports := freePorts(t, 3)
	policy := testPolicy("api", 8080, "web")
	api := startEnvoy(t, ca, destination(ca, testInbound("api", ports[0], 8080, mesh.ProtocolHTTP, policy), app))
	up := testUpstream("api", 8080, mesh.ProtocolHTTP, local(ports[0]))
	web := startEnvoy(t, ca, caller("web", map[uint16]*plan.Upstream{ports[1]: up}))

	transport := &http.Transport{}
	client := &http.Client{Transport: transport, Timeout: 5 * time.Second}
	code, body, header, err := get(client, ports[1], "/a//b?x=1")
	if err != nil || code != 200 {
		t.Fatalf("%d %s %v", code, body, err)
	}
	t.Log(body, header)
	if want := fmt.Sprintf(`HTTP/1.1 /a/b?x=1 host=127.0.0.1:%d xfcc=["URI=spiffe://test.example/svc/web"] odd=[]`, ports[1]); body != want {
		t.Errorf("the application saw %s, want %s", body, want)
	}
	if len(header["X-Kerege-Unreached"])+len(header["X-Envoy-Overloaded"])+len(header["X-Envoy-Upstream-Service-Time"]) > 0 {
		t.Errorf("private headers came through: %v", header)
	}

	t.Run("an escaped slash and an underscore are refused", func(t *testing.T) {
		if code, _, _, _ := get(client, ports[1], "/a%2fb"); code != 400 {
			t.Errorf("%d", code)
		}
		req, _ := http.NewRequest("GET", fmt.Sprintf("http://127.0.0.1:%d/", ports[1]), nil)
		req.Header["X_tenant"] = []string{"gold"}
		res, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != 400 {
			t.Errorf("%d", res.StatusCode)
		}
	})
	t.Run("an instance with another name is not called", func(t *testing.T) {
		wrong := testUpstream("api", 8080, mesh.ProtocolHTTP, local(ports[0]))
		wrong.Ports[0].Clusters[0].Identity = testIdentity("ap")
		web.apply(t, caller("web", map[uint16]*plan.Upstream{ports[1]: wrong}))
		n := calls.Load()
		eventually(t, 5*time.Second, func() error {
			if code, _, _, _ := get(client, ports[1], "/"); code != 503 {
				return fmt.Errorf("%d", code)
			}
			n = calls.Load()
			return nil
		})
		if code, _, _, _ := get(client, ports[1], "/"); code != 503 || calls.Load() != n {
			t.Errorf("%d", code)
		}
		web.apply(t, caller("web", map[uint16]*plan.Upstream{ports[1]: up}))
		eventually(t, 5*time.Second, func() error {
			if code, _, _, _ := get(client, ports[1], "/"); code != 200 {
				return fmt.Errorf("%d", code)
			}
			return nil
		})
	})
	t.Run("a rule changed refuses the next request on the same connection", func(t *testing.T) {
		conn, err := net.Dial("tcp", local(ports[1]).String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		same := &http.Client{Transport: &http.Transport{DialContext: oneConn(conn)}, Timeout: 5 * time.Second}
		if code, body, _, err := get(same, ports[1], "/"); code != 200 {
			t.Fatal(code, body, err)
		}
		no := destination(ca, testInbound("api", ports[0], 8080, mesh.ProtocolHTTP, testPolicy("api", 8080, "other")), app)
		api.apply(t, no)
		began := time.Now()
		eventually(t, 5*time.Second, func() error {
			code, body, _, err := get(same, ports[1], "/")
			if code != 403 || !strings.Contains(body, "spiffe://test.example/svc/web may not call this at api:8080") {
				return fmt.Errorf("%d %s %v", code, body, err)
			}
			return nil
		})
		t.Logf("refused after %v", time.Since(began))
		yes := destination(ca, testInbound("api", ports[0], 8080, mesh.ProtocolHTTP, policy), app)
		api.apply(t, yes)
		eventually(t, 5*time.Second, func() error {
			if code, body, _, err := get(same, ports[1], "/"); code != 200 {
				return fmt.Errorf("%d %s %v", code, body, err)
			}
			return nil
		})
	})
	t.Run("who is denied is told, who is not is not, and the log names the rule", func(t *testing.T) {
		deny := testPolicy("api", 8080, "web")
		deny.Deny = []mesh.Permission{{Action: mesh.ActionDeny, Name: "no-admin", From: []string{"*"}, PathPrefix: "/admin"}}
		api.apply(t, destination(ca, testInbound("api", ports[0], 8080, mesh.ProtocolHTTP, deny), app))
		eventually(t, 5*time.Second, func() error {
			if code, body, _, err := get(client, ports[1], "/admin/x?y=1"); code != 403 {
				return fmt.Errorf("%d %s %v", code, body, err)
			}
			return nil
		})
		for _, path := range []string{"//admin", "/x/../admin", "/admin/", "/./admin?z", "/%61dmin"} {
			if code, _, _, err := get(client, ports[1], path); code != 403 {
				t.Errorf("%s: %d %v", path, code, err)
			}
		}
		if code, _, _, err := get(client, ports[1], "/administration"); code != 200 {
			t.Errorf("%d %v", code, err)
		}
		eventually(t, 5*time.Second, func() error {
			if log := api.log.String(); !strings.Contains(log, `"rule":"no-admin"`) || !strings.Contains(log, `"caller":"spiffe://test.example/svc/web"`) ||
				strings.Contains(log, "administration") {
				return fmt.Errorf("the log says: %s", log)
			}
			return nil
		})
	})
	t.Run("a dead application is left for a living one, whatever the method", func(t *testing.T) {
		var others atomic.Int64
		other, _ := listenOn(t, echo(&others))
		startEnvoy(t, ca, destination(ca, testInbound("api", ports[2], 8080, mesh.ProtocolHTTP, policy), other))
		web.apply(t, caller("web", map[uint16]*plan.Upstream{ports[1]: testUpstream("api", 8080, mesh.ProtocolHTTP, local(ports[0]), local(ports[2]))}))
		eventually(t, 5*time.Second, func() error {
			if _, _, _, err := get(client, ports[1], "/"); err != nil || others.Load() == 0 {
				return fmt.Errorf("the second instance gets nothing: %v", err)
			}
			return nil
		})
		server.Close()
		before := others.Load()
		for i := range 20 {
			res, err := client.Post(fmt.Sprintf("http://127.0.0.1:%d/", ports[1]), "text/plain", strings.NewReader("x"))
			if err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, res.Body)
			res.Body.Close()
			if res.StatusCode != 200 {
				t.Fatalf("call %d: %d", i, res.StatusCode)
			}
			if res.Header.Get("x-kerege-unreached") != "" {
				t.Error("the private header came through")
			}
		}
		if others.Load()-before != 20 {
			t.Errorf("the living one got %d of 20", others.Load()-before)
		}
	})
	if s, err := api.admin.Stats(t.Context(), "ssl.session_reused|ssl.handshake"); err != nil || sum(s) == 0 {
		t.Error(s, err)
	} else {
		for name, n := range s {
			if strings.HasSuffix(name, "session_reused") && n != 0 {
				t.Errorf("%s = %d", name, n)
			}
		}
	}
	api.clean(t)
	web.clean(t)
}

func TestWhenEveryInstanceIsDeadTheCallerLearnsItWithoutOurHeader(t *testing.T) {
	ca := newTestCA(t)
	ports := freePorts(t, 3)
	api := startEnvoy(t, ca, destination(ca, testInbound("api", ports[0], 8080, mesh.ProtocolHTTP, testPolicy("api", 8080, "web")), ports[2]))
	web := startEnvoy(t, ca, caller("web", map[uint16]*plan.Upstream{ports[1]: testUpstream("api", 8080, mesh.ProtocolHTTP, local(ports[0]))}))
	code, body, header, err := get(http.DefaultClient, ports[1], "/")
	if code != 503 || header.Get("x-kerege-unreached") != "" {
		t.Errorf("%d %s %v %v", code, body, header, err)
	}
	stats, err := web.admin.Stats(t.Context(), `cluster.api_8080.upstream_rq_retry$`)
	if err != nil || stats["cluster.api_8080.upstream_rq_retry"] != 2 {
		t.Errorf("retries: %v %v", stats, err)
	}
	api.clean(t)
}
