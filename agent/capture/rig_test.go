//go:build e2e

package capture

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The rig: each test runs in a process of its own with network, mount and process
// namespaces of its own, which the kernel takes away with it. That is "the host";
// a namespace "out" on a veth pair is the rest of the world.

const (
	rigEnv   = "KEREGE_CAPTURE_RIG"
	hostIP   = "10.88.0.2"
	outIP    = "10.88.0.1"
	hostIP6  = "fd88::2"
	outIP6   = "fd88::1"
	uidApp   = 2001
	uidApi   = 2002
	uidEnvoy = 2990
	uidAgent = 2991
)

func TestMain(m *testing.M) {
	if role := os.Getenv("KEREGE_CAPTURE_ROLE"); role != "" {
		os.Exit(roleMain(role, os.Args[1:]))
	}
	os.Exit(m.Run())
}

// onBackends runs a test on both packet filters.
func onBackends(t *testing.T, do func(t *testing.T, r *rig)) {
	for _, backend := range []string{"nft", "legacy"} {
		t.Run(backend, func(t *testing.T) { isolated(t, backend, do) })
	}
}

// onNFT runs a test where the backend does not matter.
func onNFT(t *testing.T, do func(t *testing.T, r *rig)) {
	t.Run("nft", func(t *testing.T) { isolated(t, "nft", do) })
}

func isolated(t *testing.T, backend string, do func(t *testing.T, r *rig)) {
	if os.Getenv(rigEnv) == t.Name() {
		do(t, newRig(t, backend))
		return
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	name := "^" + strings.ReplaceAll(t.Name(), "/", "$/^") + "$"
	const script = `mount -t tmpfs -o mode=755 tmpfs /run && mkdir /run/netns && ip link set lo up && exec "$@"`
	cmd := exec.Command("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--",
		"sh", "-c", script, "rig", self, "-test.run", name, "-test.v", "-test.timeout", "90s")
	cmd.Env = append(os.Environ(), rigEnv+"="+t.Name())
	out, err := cmd.CombinedOutput()
	if err != nil || testing.Verbose() {
		t.Logf("%s", out)
	}
	if err != nil {
		t.Fatal(err)
	}
}

type rig struct {
	t       *testing.T
	backend string
	o       Options
	m       *Manager
}

func newRig(t *testing.T, backend string) *rig {
	r := &rig{t: t, backend: backend}
	r.o = Options{StateDir: t.TempDir(), Commands: Commands{"iptables-" + backend, "ip6tables-" + backend}}
	r.m = New(r.o)
	sh(t, `ip netns add out
ip link add eth0 type veth peer name eth0 netns out
ip link set eth0 addrgenmode none; ip -n out link set eth0 addrgenmode none
ip addr add `+hostIP+`/24 dev eth0; ip addr add `+hostIP6+`/64 dev eth0 nodad; ip link set eth0 up
ip -n out link set lo up; ip -n out addr add `+outIP+`/24 dev eth0; ip -n out addr add `+outIP6+`/64 dev eth0 nodad; ip -n out link set eth0 up`)
	return r
}

func sh(t *testing.T, script string) string {
	t.Helper()
	out, err := exec.Command("sh", "-ec", script).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return string(out)
}

var countersText = regexp.MustCompile(`\[\d+:\d+\]`)

// listingOf is the packet filter and the routes of the host less comments,
// counters and empty tables.
func (r *rig) listingOf() string {
	r.t.Helper()
	var out []string
	var table []string
	for line := range strings.Lines(sh(r.t, "iptables-"+r.backend+"-save; ip6tables-"+r.backend+"-save")) {
		line = countersText.ReplaceAllString(strings.TrimSpace(line), "")
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case strings.HasPrefix(line, "*"):
			table = []string{line}
		case strings.HasPrefix(line, ":") && strings.Contains(line, " ACCEPT"):
		case line == "COMMIT":
			if len(table) > 1 {
				out = append(out, table...)
			}
		default:
			table = append(table, line)
		}
	}
	return strings.Join(out, "\n") + "\n" + sh(r.t, "ip route; ip -6 route")
}

func (r *rig) config() Config {
	return Config{
		Workloads: []Workload{
			{Name: "web", UIDs: []uint32{uidApp}, OutboundPort: 15001, InboundPort: 15006, Ports: []uint16{8080}},
			{Name: "api", UIDs: []uint32{uidApi}, OutboundPort: 15011, InboundPort: 15016, Ports: []uint16{9090}},
		},
		EnvoyUIDs: []uint32{uidEnvoy}, AgentUIDs: []uint32{uidAgent}, DNS: true,
	}
}

func (r *rig) apply(c Config) Applied {
	r.t.Helper()
	a, err := r.m.Apply(context.Background(), c, 0)
	if err != nil {
		r.t.Fatal(err)
	}
	return a
}

// serve answers each line of a connection with the server's name and the
// original destination.
func (r *rig) serve(netns, name, address string) {
	r.t.Helper()
	var l net.Listener
	err := InNamespace(netns, func() (err error) {
		l, err = net.Listen("tcp", address)
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				lines := bufio.NewScanner(c)
				for lines.Scan() {
					fmt.Fprintf(c, "%s %s\n", name, original(c.(*net.TCPConn)))
				}
			}()
		}
	}()
}

// envoys stands in for the two proxies: listeners at the capture ports.
func (r *rig) envoys(netns string) {
	for _, a := range []string{"127.0.0.1:15001", "[::1]:15001", "127.0.0.1:15011", "[::1]:15011"} {
		r.serve(netns, "out"+a[strings.LastIndex(a, ":")+1:], a)
	}
	for _, a := range []string{":15006", ":15016"} {
		r.serve(netns, "in"+a[1:], a)
	}
}

const soOriginalDst = 80

func original(c *net.TCPConn) (text string) {
	defer func() {
		if text == c.LocalAddr().String() {
			text = "direct" // tracked, and led nowhere else
		}
	}()
	raw, err := c.SyscallConn()
	if err != nil {
		return err.Error()
	}
	raw.Control(func(fd uintptr) {
		if c.LocalAddr().(*net.TCPAddr).IP.To4() != nil {
			v, err := unix.GetsockoptIPv6Mreq(int(fd), unix.IPPROTO_IP, soOriginalDst)
			if err != nil {
				text = "direct"
				return
			}
			b := v.Multiaddr
			text = netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), binary.BigEndian.Uint16(b[2:4])).String()
			return
		}
		v, err := unix.GetsockoptIPv6MTUInfo(int(fd), unix.IPPROTO_IPV6, soOriginalDst)
		if err != nil {
			text = "direct"
			return
		}
		var port [2]byte
		binary.NativeEndian.PutUint16(port[:], v.Addr.Port)
		text = netip.AddrPortFrom(netip.AddrFrom16(v.Addr.Addr), binary.BigEndian.Uint16(port[:])).String()
	})
	return text
}

// session is an open connection to one of the servers.
type session struct {
	fd int
	in io.Reader
}

func (s session) ask() string {
	if _, err := unix.Write(s.fd, []byte("hello\n")); err != nil {
		return err.Error()
	}
	buf := make([]byte, 200)
	n, err := unix.Read(s.fd, buf)
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(string(buf[:n]))
}

// dial opens a connection as a user, on the host or in a namespace.
func dial(netns string, uid uint32, to string) (session, error) {
	var s session
	err := asWorkload(Config{}, Workload{Netns: netns, UIDs: []uint32{uid}}, func() error {
		fd, _, err := connect(netip.MustParseAddrPort(to))
		s.fd = fd
		return err
	})
	return s, err
}

// call is one short connection: what answered, or the error.
func call(netns string, uid uint32, to string) string {
	s, err := dial(netns, uid, to)
	if err != nil {
		return err.Error()
	}
	defer unix.Close(s.fd)
	return s.ask()
}

func (r *rig) expect(netns string, uid uint32, to, want string) {
	r.t.Helper()
	if got := call(netns, uid, to); got != want {
		r.t.Errorf("user %d in %q to %s: %q answers, want %q", uid, netns, to, got, want)
	}
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("waiting for %s: not within 10 s", what)
}

// answer says name to each datagram.
func (r *rig) answer(netns, address, name string) {
	r.t.Helper()
	var c net.PacketConn
	err := InNamespace(netns, func() (err error) {
		c, err = net.ListenPacket("udp", address)
		return err
	})
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { c.Close() })
	go func() {
		buf := make([]byte, 512)
		for {
			_, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			c.WriteTo([]byte(name), from)
		}
	}()
}

// query sends one datagram to port 53 as a user, from a port of its own choice,
// and returns what answers and from where.
func query(uid uint32, from string, port int, to string) (answer string, err error) {
	err = asWorkload(Config{}, Workload{UIDs: []uint32{uid}}, func() error {
		c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.ParseIP(from), Port: port})
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
			return err
		}
		if _, err := c.WriteTo([]byte("?"), &net.UDPAddr{IP: net.ParseIP(to), Port: 53}); err != nil {
			return err
		}
		buf := make([]byte, 512)
		n, who, err := c.ReadFrom(buf)
		if err != nil {
			return err
		}
		answer = string(buf[:n]) + " from " + who.String()
		return nil
	})
	return answer, err
}

const outNS = "/run/netns/out"

// role starts this very program as something else.
func (r *rig) role(role string, args ...string) *exec.Cmd {
	self, err := os.Executable()
	if err != nil {
		r.t.Fatal(err)
	}
	cmd := exec.Command(self, args...)
	cmd.Env = append(os.Environ(), "KEREGE_CAPTURE_ROLE="+role)
	return cmd
}
