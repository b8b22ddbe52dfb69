//go:build e2e

package xds

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/plan"
)

// TestCapture runs itself in a network namespace of its own, which the kernel
// takes away with the process.
func TestCapture(t *testing.T) {
	if os.Getenv("KR_XDS_INSIDE") == "" {
		cmd := exec.Command("/proc/self/exe", "-test.run=^TestCapture$", "-test.v")
		cmd.Env = append(os.Environ(), "KR_XDS_INSIDE=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("in a namespace of its own: %v\n%s", err, out)
		}
		t.Logf("%s", out)
		return
	}
	const web, api = 61337, 61338
	sh(t, `
ip link set lo up
ip link add d0 type veth peer name d1
ip link set d1 up
ip addr add 10.98.0.1/24 dev d0
ip -6 addr add fd98::1/64 dev d0 nodad
ip link set d0 up
ip route add 240.0.0.0/4 dev d0
ip route add 192.0.2.0/24 dev d0
ip -6 route add fd6b:6572:6567::/48 dev d0
for t in iptables ip6tables; do
  self=10.98.0.1; [ $t = ip6tables ] && self=fd98::1
  $t -t nat -A OUTPUT -p tcp -m owner --uid-owner 61338 -j RETURN
  $t -t nat -A OUTPUT -p tcp -m owner --uid-owner 61337 -d $self --dport 8080:8089 -j REDIRECT --to-ports 15006
  $t -t nat -A OUTPUT -p tcp -m owner --uid-owner 61337 -j RETURN
  $t -t nat -A OUTPUT -p tcp -o lo -j RETURN
  $t -t nat -A OUTPUT -p tcp -j REDIRECT --to-ports 15001
done
# What the node dials at its own address goes out by lo; seen from the rules it is d0's.
for port in 9000 8080; do
  iptables -t nat -I OUTPUT 1 -p tcp -d 10.98.0.1 --dport $port -m owner --uid-owner 0 -j REDIRECT --to-ports 15001
  ip6tables -t nat -I OUTPUT 1 -p tcp -d fd98::1 --dport $port -m owner --uid-owner 0 -j REDIRECT --to-ports 15001
done
`)
	ca := newTestCA(t)
	var calls atomic.Int64
	serve(t, "tcp", ":8080", echo(&calls))
	serve(t, "tcp", ":8085", echo(&calls))
	serve(t, "tcp", "10.98.0.1:9000", echo(&calls))

	policy := testPolicy("api", 8080, "web")
	policy.Bundle = ca.pem
	in := &plan.Proxy{
		Node:     plan.Node{ID: mesh.ProxyID{Service: "api", Node: "n1"}, InboundPort: 15006},
		Identity: testIdentity("api"),
		Inbound:  []*plan.Inbound{testInbound("api", 8080, 8080, mesh.ProtocolHTTP, policy)},
		Outside:  plan.Outside{Mode: mesh.OutboundRegistered, Caller: "api"},
	}
	apiEnvoy := startEnvoyAs(t, ca, in, api)
	at := []netip.AddrPort{netip.MustParseAddrPort("10.98.0.1:8080"), netip.MustParseAddrPort("[fd98::1]:8080")}
	out := testProxy("web", nil, testUpstream("api", 8080, mesh.ProtocolHTTP, at...))
	out.Node.InboundPort = 0
	webEnvoy := startEnvoyAs(t, ca, out, web)

	client := func() *http.Client {
		return &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 5 * time.Second}
	}
	page := func(url string) (int, string) {
		res, err := client().Get(url)
		if err != nil {
			return 0, err.Error()
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		return res.StatusCode, string(b)
	}
	for _, url := range []string{"http://240.0.0.7:8080/v4", "http://[fd6b:6572:6567::7]:8080/v6"} {
		for range 4 {
			if code, body := page(url); code != 200 || !strings.Contains(body, `xfcc=["URI=spiffe://test.example/svc/web"]`) {
				t.Errorf("%s: %d %s", url, code, body)
			}
		}
	}
	for _, url := range []string{"http://240.0.0.99:8080/", "http://[fd6b:6572:6567::99]:80/", "http://240.0.0.7:15001/"} {
		if code, body := page(url); code != 403 || !strings.Contains(body, `from = ["web"]`) || !strings.Contains(body, strings.TrimSuffix(strings.TrimPrefix(url, "http://"), "/")) {
			t.Errorf("%s: %d %s", url, code, body)
		}
	}
	if code, body := page("http://192.0.2.1/"); code != 502 || !strings.Contains(body, "outbound") {
		t.Errorf("outside: %d %s", code, body)
	}
	silent := func(where string) {
		t.Helper()
		c, err := net.DialTimeout("tcp", where, time.Second)
		if err != nil {
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(4 * time.Second))
		if b, err := io.ReadAll(c); err != nil || len(b) > 0 {
			t.Errorf("%s: %q %v", where, b, err)
		}
	}
	silent("240.0.0.99:9999")
	silent("192.0.2.1:25")
	silent("127.0.0.1:15001")
	silent("127.0.0.1:15006")
	silent("[::1]:15001")
	if code, body := page("http://127.0.0.1:15001/"); code != 0 {
		t.Errorf("the capture port itself answers: %d %s", code, body)
	}
	// A port that the service does not have is closed, whatever listens behind it.
	if code, _ := page("http://10.98.0.1:15006/"); code != 0 {
		t.Error("the inbound capture port answers by itself")
	}

	directly(t, out, webEnvoy, page)
	out.Outside.Mode = mesh.OutboundAny
	webEnvoy.apply(t, out)
	eventually(t, 5*time.Second, func() error {
		if code, body := page("http://10.98.0.1:9000/through"); code != 200 || !strings.Contains(body, "/through") {
			return fmt.Errorf("%d %s", code, body)
		}
		return nil
	})
	began := time.Now()
	silent("127.0.0.1:15001")
	if took := time.Since(began); took > time.Second {
		t.Errorf("the capture port itself is refused after %v, not at once", took)
	}
	apiEnvoy.clean(t)
	webEnvoy.clean(t)
}

// directly dials the instance's own address: closed to whom the mesh knows
// nothing of, by mTLS where the plan says so, held where it says that.
func directly(t *testing.T, out *plan.Proxy, webEnvoy *runningEnvoy, page func(string) (int, string)) {
	const url = "http://10.98.0.1:8080/direct"
	if code, body := page(url); code != 502 || !strings.Contains(body, "outbound") {
		t.Errorf("not dialed directly: %d %s", code, body)
	}
	clone := *out.Outbound[0]
	clone.Ports = slices.Clone(clone.Ports)
	was := out.Outbound
	for _, protocol := range []mesh.Protocol{mesh.ProtocolHTTP, mesh.ProtocolUnknown} {
		for _, in := range []bool{true, false} {
			next := clone
			next.Ports = slices.Clone(clone.Ports)
			next.Ports[0].Protocol, next.Ports[0].TCP = protocol, []plan.Weighted{{Cluster: "api:8080", Weight: 1}}
			next.Ports[0].Direct = []plan.Direct{{Addr: netip.MustParseAddrPort("10.98.0.1:8080"), In: in, Held: !in}, {Addr: netip.MustParseAddrPort("[fd98::1]:8080"), In: in, Held: !in}}
			out.Outbound = []*plan.Upstream{&next}
			webEnvoy.apply(t, out)
			for _, u := range []string{url, strings.Replace(url, "10.98.0.1", "[fd98::1]", 1)} {
				eventually(t, 5*time.Second, func() error {
					code, body := page(u)
					if in && code == 200 && strings.Contains(body, `xfcc=["URI=spiffe://test.example/svc/web"]`) && strings.Contains(body, "/direct host=") ||
						!in && code == 503 && strings.Contains(body, "is held back") {
						return nil
					}
					return fmt.Errorf("%s %s, in %v: %d %s", protocol, u, in, code, body)
				})
			}
		}
	}
	out.Outbound = was
	webEnvoy.apply(t, out)
	eventually(t, 5*time.Second, func() error {
		if code, body := page(url); code != 502 {
			return fmt.Errorf("no more dialed directly: %d %s", code, body)
		}
		return nil
	})
}

func sh(t *testing.T, script string) {
	t.Helper()
	out, err := exec.Command("sh", "-ec", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

func serve(t *testing.T, network, at string, h http.Handler) {
	t.Helper()
	l, err := net.Listen(network, at)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h}
	done := make(chan struct{})
	go func() { defer close(done); s.Serve(l) }()
	t.Cleanup(func() { s.Close(); <-done })
}
