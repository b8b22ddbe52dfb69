//go:build e2e

package xds

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/plan"
)

// raw sends bytes and reads one answer; 0 is none.
func raw(t *testing.T, port uint16, request string) (code int, body string) {
	t.Helper()
	c, err := net.Dial("tcp", local(port).String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.WriteString(c, request); err != nil {
		t.Fatal(err)
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0, err.Error()
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, err.Error()
	}
	return res.StatusCode, string(b)
}

// A host is as it was sent but for a trailing dot, or the caller's own Envoy
// answers 400; no such call goes out, nor does an instance suffer for it (F3).
func TestHosts(t *testing.T) {
	ca := newTestCA(t)
	var calls atomic.Int64
	app, _ := listenOn(t, echo(&calls))
	ports := freePorts(t, 4)
	for _, protocol := range []mesh.Protocol{mesh.ProtocolHTTP, mesh.ProtocolUnknown} {
		listen, at := ports[0], ports[1]
		ports = ports[2:]
		api := startEnvoy(t, ca, destination(ca, testInbound("api", listen, 8080, protocol, testPolicy("api", 8080, "web")), app))
		web := startEnvoy(t, ca, caller("web", map[uint16]*plan.Upstream{at: testUpstream("api", 8080, protocol, local(listen))}))
		for sent, host := range map[string]string{
			"api.mesh": "api.mesh", "API.mesh:8080": "API.mesh:8080", "api.mesh.": "api.mesh", "api.mesh.:80": "api.mesh:80",
			"127.0.0.1:65535": "127.0.0.1:65535", "[::1]:80": "[::1]:80", "[fd00::1]": "[fd00::1]", "a_b-c~d": "a_b-c~d", "a%20b": "a%20b", "a:": "a:",
		} {
			code, body := raw(t, at, "GET / HTTP/1.1\r\nHost: "+sent+"\r\nConnection: close\r\n\r\n")
			if code != 200 || !strings.Contains(body, "host="+host+" ") {
				t.Errorf("%q: %d %s; want host=%s", sent, code, body, host)
			}
		}
		if code, body := raw(t, at, "GET http://api.mesh/x HTTP/1.1\r\nHost: other\r\nConnection: close\r\n\r\n"); code != 200 || !strings.Contains(body, "host=api.mesh ") {
			t.Errorf("absolute: %d %s", code, body)
		}
		if code, body := raw(t, at, "GET / HTTP/1.0\r\n\r\n"); code != 200 || !strings.Contains(body, "host=api.mesh ") {
			t.Errorf("HTTP/1.0: %d %s", code, body)
		}
		before := calls.Load()
		bad := []string{"GET / HTTP/1.1\r\nX: y", "GET / HTTP/1.1\r\nHost: a\r\nHost: b", "GET / HTTP/1.1\r\nHost: a\r\nHost: a", "GET http://a:99999/ HTTP/1.1\r\nHost: a",
			"GET http://a b/ HTTP/1.1\r\nHost: a", "GET ftp://a/ HTTP/1.1\r\nHost: a", "POST / HTTP/1.1\r\nHost: u@a"}
		for _, host := range []string{"", " ", "a b", "a\tb", "a/b", `a\b`, "a?b", "a#b", "u@a", "u:p@a", "@", "a:b", "a:99999", "a:-1", "a:80:80", "::1", "[::1", "[x]", "[::1]b",
			"\xc3\xa9", "a\x01b", "a\x00b", "<a>", `a"b`, "a^b", "a{b}", "a|b", "a,b"} {
			bad = append(bad, "GET / HTTP/1.1\r\nHost: "+host)
		}
		for range 3 { // often enough for an instance to be left out, were it blamed
			for _, request := range bad {
				if code, body := raw(t, at, request+"\r\nConnection: close\r\n\r\n"); code != 400 {
					t.Errorf("%s: %q: %d %s", protocol, request, code, body)
				}
			}
		}
		if calls.Load() != before {
			t.Errorf("%s: %d calls reached the application", protocol, calls.Load()-before)
		}
		stats, err := web.admin.Stats(t.Context(), `cluster.api_8080.(upstream_rq_tx_reset|upstream_rq_rx_reset|upstream_rq_retry|outlier_detection.ejections_enforced_total)$`)
		if err != nil || len(stats) == 0 || sum(stats) != 0 {
			t.Errorf("%s: an instance was blamed: %v %v", protocol, stats, err)
		}
		api.clean(t)
		web.clean(t)
	}
}
