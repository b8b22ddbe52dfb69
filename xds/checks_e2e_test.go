//go:build e2e

package xds

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/plan"
)

// TestChecks asks captured ports in plaintext, from addresses that may and may not.
func TestChecks(t *testing.T) {
	if os.Getenv("KR_XDS_INSIDE") == "" {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestChecks$", "-test.v")
		cmd.Env = append(os.Environ(), "KR_XDS_INSIDE=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("in a namespace of its own: %v\n%s", err, out)
		}
		return
	}
	const host, bridge, other = "10.98.0.1", "10.98.0.2", "10.98.0.3"
	sh(t, `
ip link set lo up
for a in 1 2 3; do ip addr add 10.98.0.$a/24 dev lo; done
iptables -t nat -A OUTPUT -p tcp -m owner --uid-owner 0 -d 10.98.0.9 -j REDIRECT --to-ports 15006
ip route add local 10.98.0.9/32 dev lo`)
	var calls atomic.Int64
	serve(t, "tcp", ":8080", echo(&calls))
	serve(t, "tcp", ":8081", echo(&calls))
	serve(t, "tcp", ":8082", echo(&calls))
	ca := newTestCA(t)
	p := &plan.Proxy{
		Node:     plan.Node{ID: mesh.ProxyID{Service: "api", Node: "n1", Workload: "a1"}, InboundPort: 15006, Bridge: []netip.Addr{netip.MustParseAddr(bridge)}},
		Identity: testIdentity("api"), Outside: plan.Outside{Mode: mesh.OutboundRegistered, Caller: "api"},
	}
	for i, protocol := range []mesh.Protocol{mesh.ProtocolHTTP, mesh.ProtocolUnknown, mesh.ProtocolUnknown} {
		n := uint16(8080 + i)
		in := testInbound("api", n, n, protocol, testPolicy("api", n, "web"))
		in.Policy.Bundle = ca.pem
		if n == 8082 {
			in.MTLS = mesh.MTLSPermissive
		}
		p.Inbound = append(p.Inbound, in)
		p.Checks = append(p.Checks, mesh.Probe{Port: n, Method: "GET", Path: "/bridge"}, mesh.Probe{Port: n, Method: "GET", Path: "/health", From: netip.MustParseAddr(host)})
	}
	e := startEnvoyAs(t, ca, p, 61338)
	ask := func(c *http.Client, method string, port int, path string) (int, string, bool) {
		reused := false
		ctx := httptrace.WithClientTrace(context.Background(), &httptrace.ClientTrace{GotConn: func(i httptrace.GotConnInfo) { reused = i.Reused }})
		req, err := http.NewRequestWithContext(ctx, method, fmt.Sprintf("http://10.98.0.9:%d%s", port, path), nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("x-kerege-secret", "1")
		res, err := c.Do(req)
		if err != nil {
			return 0, err.Error(), false
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		return res.StatusCode, string(b), reused
	}
	from := func(addr string) *http.Client {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(addr)}}
		return &http.Client{Transport: &http.Transport{DialContext: d.DialContext}, Timeout: 5 * time.Second}
	}
	for _, port := range []int{8080, 8081, 8082} {
		for _, c := range []struct {
			from, method, path string
			want               int
		}{
			{host, "GET", "/health", 200}, {host, "HEAD", "/health", 200}, {host, "POST", "/health", 403}, {host, "GET", "/health/", 403},
			{host, "GET", "/health?x=1", 403}, {host, "GET", "/bridge", 403}, {host, "GET", "/", 403}, {bridge, "GET", "/bridge", 200}, {bridge, "GET", "/health", 403},
			{other, "GET", "/health", 0}, {other, "GET", "/bridge", 0},
		} {
			if c.want == 0 && port == 8082 {
				c.want = 403 // it takes plaintext, and judges it
			}
			before := calls.Load()
			code, body, _ := ask(from(c.from), c.method, port, c.path)
			if code != c.want || (calls.Load() > before) != (code == 200) || strings.Contains(body, "secret") {
				t.Errorf("%s %s of :%d from %s: %d %s, not %d", c.method, c.path, port, c.from, code, body, c.want)
			}
		}
	}
	// Another check of another address ends no connection of this one.
	open := from(bridge)
	ask(open, "GET", 8080, "/bridge")
	p.Checks = append(p.Checks, mesh.Probe{Port: 8080, Method: "GET", Path: "/new", From: netip.MustParseAddr(host)})
	e.apply(t, p)
	eventually(t, 5*time.Second, func() error {
		if code, body, _ := ask(from(host), "GET", 8080, "/new"); code != 200 {
			return fmt.Errorf("a new check: %d %s", code, body)
		}
		return nil
	})
	if code, body, reused := ask(open, "GET", 8080, "/bridge"); code != 200 || !reused {
		t.Errorf("a connection of another chain did not stay: %d %s, reused %v", code, body, reused)
	}
	p.Checks = nil
	e.apply(t, p)
	eventually(t, 5*time.Second, func() error {
		if code, body, _ := ask(from(host), "GET", 8080, "/health"); code != 0 {
			return fmt.Errorf("without a check: %d %s", code, body)
		}
		return nil
	})
	e.clean(t)
}
