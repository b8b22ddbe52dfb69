//go:build e2e

package dns

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/kerege/kerege/agent/capture"
	"github.com/miekg/dns"
)

const rigEnv = "KEREGE_DNS_RIG"

// alone runs a test in a process with namespaces of its own; "out" is a second
// host on a wire.
func alone(t *testing.T) bool {
	if os.Getenv(rigEnv) != "" {
		shell(t, `ip netns add out
ip link add eth0 type veth peer name eth0 netns out
ip addr add 10.88.0.2/24 dev eth0; ip link set eth0 up
ip -n out addr add 10.88.0.1/24 dev eth0; ip -n out link set eth0 up`)
		return true
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	const script = `mount -t tmpfs -o mode=755 tmpfs /run && mkdir /run/netns && ip link set lo up && exec "$@"`
	cmd := exec.Command("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--",
		"sh", "-c", script, "rig", self, "-test.run", "^"+t.Name()+"$", "-test.v", "-test.timeout", "60s")
	cmd.Env = append(os.Environ(), rigEnv+"=1")
	out, err := cmd.CombinedOutput()
	if err != nil || testing.Verbose() {
		t.Logf("%s", out)
	}
	if err != nil {
		t.Fatal(err)
	}
	return false
}

func shell(t *testing.T, script string) string {
	t.Helper()
	out, err := exec.Command("sh", "-ec", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return string(out)
}

const outNS = "/run/netns/out"

// serveIn runs somebody's DNS server at an address of a namespace.
func serveIn(t *testing.T, netns, address string, h dns.HandlerFunc) {
	t.Helper()
	var pc net.PacketConn
	if err := capture.InNamespace(netns, func() (err error) { pc, err = net.ListenPacket("udp", address); return err }); err != nil {
		t.Fatal(err)
	}
	s := &dns.Server{PacketConn: pc, Handler: h}
	done := make(chan error, 1)
	go func() { done <- s.ActivateAndServe() }()
	t.Cleanup(func() { pc.Close(); <-done })
}

func dig(t *testing.T, as string, args ...string) string {
	t.Helper()
	out, _ := exec.Command("sh", "-c", as+" dig +short +tries=1 +time=2 "+strings.Join(args, " ")).CombinedOutput()
	return strings.TrimSpace(string(out))
}

func TestCapturedQuestions(t *testing.T) {
	if !alone(t) {
		return
	}
	serveIn(t, outNS, "10.88.0.1:53", echoA)
	s := New(Options{Upstreams: []string{"10.88.0.1:53"}})
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.SetNames([]Name{api})
	m := capture.New(capture.Options{StateDir: t.TempDir()})
	_, err := m.Apply(context.Background(), capture.Config{DNS: true, Workloads: []capture.Workload{{Name: "web", UIDs: []uint32{2001}, OutboundPort: 15001}}}, 0)
	if err != nil {
		t.Fatal(err)
	}
	const app = "setpriv --reuid 2001 --clear-groups"
	for _, c := range []struct{ as, question, want string }{
		{app, "@10.88.0.1 api.mesh", "240.1.2.3"},
		{app, "@10.88.0.1 +tcp api.mesh", "240.1.2.3"},
		{app, "@10.88.0.1 api.service.consul AAAA", "fd6b:6572:6567::1"},
		{app, "@10.88.0.1 example.com", "192.0.2.1"},
		{app, "@127.0.0.53 api.mesh", "240.1.2.3"},
		{"", "@10.88.0.1 api.mesh", "192.0.2.1"}, // somebody else's question goes where it went
	} {
		if got := dig(t, c.as, c.question); got != c.want {
			t.Errorf("%s %s: %q, want %q", c.as, c.question, got, c.want)
		}
	}
	if err := m.SetDNS(context.Background(), false); err != nil {
		t.Fatal(err)
	}
	if got := dig(t, app, "@10.88.0.1 api.mesh"); got != "192.0.2.1" {
		t.Errorf("with the jump out: %q", got)
	}
}

// A kernel that lets neighbours reach 127.0.0.1 does not make an open resolver.
func TestNeighboursAreNotAnswered(t *testing.T) {
	if !alone(t) {
		return
	}
	s := New(Options{Upstreams: []string{"10.88.0.1:53"}})
	if err := s.Start(); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	s.SetNames([]Name{api})
	serveIn(t, "", "127.0.0.1:15054", echoA) // shows that the way is open
	shell(t, `sysctl -qw net.ipv4.conf.all.route_localnet=1 net.ipv4.conf.eth0.route_localnet=1
ip netns exec out sysctl -qw net.ipv4.conf.all.route_localnet=1 net.ipv4.conf.eth0.route_localnet=1
ip -n out route add 127.0.0.1/32 via 10.88.0.2 dev eth0 src 10.88.0.1`)
	const out = "nsenter --net=" + outNS
	begin := time.Now()
	if got := dig(t, out, "@127.0.0.1 -p 15054 -b 10.88.0.1 api.mesh"); got != "192.0.2.1" {
		t.Fatalf("the way is not open: %q", got)
	}
	for _, tcp := range []string{"", "+tcp"} {
		if got := dig(t, out, fmt.Sprint("@127.0.0.1 -p 15053 -b 10.88.0.1 ", tcp, " api.mesh")); strings.Contains(got, "240.1.2.3") {
			t.Errorf("a neighbour is answered: %q after %s", got, time.Since(begin))
		}
	}
	if got := dig(t, "", "@127.0.0.1 -p 15053 api.mesh"); got != "240.1.2.3" {
		t.Errorf("the host itself: %q", got)
	}
}
