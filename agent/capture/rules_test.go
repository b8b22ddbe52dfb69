package capture

import (
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

var update = flag.Bool("update", false, "write the goldens anew")

func sample() Config {
	return Config{
		Workloads: []Workload{{Name: "web", UIDs: []uint32{33}, OutboundPort: 15001, InboundPort: 15006, Ports: []uint16{8080}}},
		EnvoyUIDs: []uint32{990}, AgentUIDs: []uint32{991}, DNS: true,
	}
}

func cases() map[string]Config {
	two := sample()
	two.EnvoyUIDs, two.Workloads[0].EnvoyUID = []uint32{990, 989}, 990
	two.Workloads = append(two.Workloads, Workload{Name: "api", UIDs: []uint32{2002, 2003}, OutboundPort: 15011, InboundPort: 15016, EnvoyUID: 989, Ports: []uint16{9090, 9091, 22, 8500, 8080}})
	lists := sample()
	lists.NeverPorts = []uint16{2222, 5432}
	lists.Servers = []netip.Addr{netip.MustParseAddr("10.0.0.9"), netip.MustParseAddr("fd00::9")}
	lists.Sessions = []Session{{Local: netip.MustParseAddrPort("10.0.0.12:2200"), Peer: netip.MustParseAddrPort("10.0.0.5:51234")}}
	w := &lists.Workloads[0]
	w.Ports = []uint16{8080, 8081, 8443}
	w.ExcludeInbound = []uint16{8081}
	w.ExcludeOutbound = []uint16{6379, 3306}
	w.ExcludeAddresses = []netip.Prefix{netip.MustParsePrefix("10.9.0.0/16"), netip.MustParsePrefix("fd00:9::/32")}
	w.IncludeAddresses = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	w.ExcludeUIDs = []uint32{34}
	slice := sample()
	slice.Workloads[0].UIDs, slice.Workloads[0].Slice = nil, "web.slice"
	netns := sample()
	netns.Workloads[0].UIDs, netns.Workloads[0].Netns = nil, "/run/netns/alloc"
	host := sample()
	host.DNSHost = true
	quiet := sample()
	quiet.DNS = false
	down := sample()
	down.Workloads[0].down = true
	crossed := sample()
	crossed.Workloads[0].ExcludeUIDs = []uint32{2002}
	crossed.Workloads = append(crossed.Workloads, Workload{Name: "api", UIDs: []uint32{2002}, OutboundPort: 15011}, Workload{Name: "job", Slice: "job.slice", OutboundPort: 15021, ExcludeUIDs: []uint32{33}})
	return map[string]Config{"one": sample(), "crossed": crossed, "two": two, "lists": lists, "slice": slice, "netns": netns.in("/run/netns/alloc"),
		"dns-host": host, "dns-off": quiet, "envoy-down-bypass": down, "nothing": {}}
}

func TestRulesAreGolden(t *testing.T) {
	for name, c := range cases() {
		t.Run(name, func(t *testing.T) {
			var text strings.Builder
			for _, r := range Rules(c) {
				text.WriteString(r.String() + "\n")
			}
			path := filepath.Join("testdata", name+".rules")
			if *update {
				if err := os.WriteFile(path, []byte(text.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if text.String() != string(want) {
				t.Errorf("got\n%s\nwant\n%s", text.String(), want)
			}
		})
	}
	files, _ := filepath.Glob("testdata/*.rules")
	for _, f := range files {
		if _, ok := cases()[strings.TrimSuffix(filepath.Base(f), ".rules")]; !ok {
			t.Errorf("%s belongs to no case", f)
		}
	}
}

// packet is the first of a connection, or one in mid-stream.
type packet struct {
	chain    string
	protocol string
	src, dst netip.Addr
	out      string
	sport    int
	dport    int
	uid      uint32
	mid      bool
	slice    string
}

// verdict walks the rules as the kernel does: the port of a redirect, or 0.
func verdict(t rapid.TB, rules []Rule, family Family, p packet) int {
	for _, r := range rules {
		if r.Family != family || r.Chain != p.chain || !matches(t, r.Spec, p) {
			continue
		}
		for i, w := range r.Spec {
			if w == "--to-ports" {
				n, err := strconv.Atoi(r.Spec[i+1])
				if err != nil {
					t.Fatal(err)
				}
				return n
			}
		}
		return 0
	}
	return 0
}

func matches(t rapid.TB, spec []string, p packet) bool {
	no := false
	for i := 0; i < len(spec); i++ {
		if spec[i] == "!" {
			no = true
			continue
		}
		hit := true
		take := func() string { i++; return spec[i] }
		switch spec[i] {
		case "-j":
			return true
		case "-p":
			hit = take() == p.protocol
		case "-m", "--dst-type":
			take()
		case "--tcp-flags":
			take()
			take()
			hit = !p.mid
		case "-s":
			hit = netip.MustParsePrefix(take()).Contains(p.src)
		case "-d":
			hit = netip.MustParsePrefix(take()).Contains(p.dst)
		case "-o":
			hit = take() == p.out
		case "--uid-owner":
			hit = take() == strconv.Itoa(int(p.uid))
		case "--path":
			hit = take() == p.slice
		case "--dport", "--dports":
			hit = inPorts(take(), p.dport)
		case "--sport":
			hit = inPorts(take(), p.sport)
		default:
			t.Fatalf("a match this test does not know: %q", spec[i])
		}
		if hit == no {
			return false
		}
		no = false
	}
	return true
}

func inPorts(list string, port int) bool {
	for _, part := range strings.Split(list, ",") {
		a, b, ok := strings.Cut(part, ":")
		first, _ := strconv.Atoi(a)
		last := first
		if ok {
			last, _ = strconv.Atoi(b)
		}
		if first <= port && port <= last {
			return true
		}
	}
	return false
}

func TestWhatIsTaken(t *testing.T) {
	a := netip.MustParseAddr
	c := cases()
	for _, test := range []struct {
		name   string
		config string
		family Family
		p      packet
		want   int
	}{
		{"a call", "one", V4, packet{chain: chainOut, protocol: "tcp", dst: a("240.0.0.7"), dport: 80, uid: 33}, 15001},
		{"a call v6", "one", V6, packet{chain: chainOut, protocol: "tcp", dst: a("fd6b:6572:6567::7"), dport: 80, uid: 33}, 15001},
		{"another user's", "one", V4, packet{chain: chainOut, protocol: "tcp", dst: a("240.0.0.7"), dport: 80, uid: 34}, 0},
		{"Envoy's", "one", V4, packet{chain: chainOut, protocol: "tcp", dst: a("10.0.0.7"), dport: 80, uid: 990}, 0},
		{"in mid-stream", "one", V4, packet{chain: chainOut, protocol: "tcp", dst: a("10.0.0.7"), dport: 80, uid: 33, mid: true}, 0},
		{"on loopback", "one", V4, packet{chain: chainOut, protocol: "tcp", dst: a("127.0.0.1"), dport: 5432, uid: 33}, 0},
		{"metadata", "one", V4, packet{chain: chainOut, protocol: "tcp", dst: a("169.254.169.254"), dport: 80, uid: 33}, 0},
		{"DNS to a stub", "one", V4, packet{chain: chainOut, protocol: "udp", dst: a("127.0.0.53"), dport: 53, uid: 33}, 15053},
		{"DNS by tcp", "one", V6, packet{chain: chainOut, protocol: "tcp", dst: a("fd00::53"), dport: 53, uid: 33}, 15053},
		{"the agent's DNS", "one", V4, packet{chain: chainOut, protocol: "udp", dst: a("10.0.0.53"), dport: 53, uid: 991}, 0},
		{"root's DNS", "one", V4, packet{chain: chainOut, protocol: "udp", dst: a("10.0.0.53"), dport: 53}, 0},
		{"root's DNS, host", "dns-host", V4, packet{chain: chainOut, protocol: "udp", dst: a("10.0.0.53"), dport: 53}, 15053},
		{"DNS off", "dns-off", V4, packet{chain: chainOut, protocol: "udp", dst: a("10.0.0.53"), dport: 53, uid: 33}, 0},
		{"NTP", "one", V4, packet{chain: chainOut, protocol: "udp", dst: a("10.0.0.53"), dport: 123, uid: 33}, 0},
		{"inbound", "one", V4, packet{chain: chainIn, protocol: "tcp", dst: a("10.0.0.12"), dport: 8080}, 15006},
		{"another port", "one", V4, packet{chain: chainIn, protocol: "tcp", dst: a("10.0.0.12"), dport: 9090}, 0},
		{"the second's", "two", V4, packet{chain: chainIn, protocol: "tcp", dst: a("10.0.0.12"), dport: 9090}, 15016},
		{"the second's call", "two", V6, packet{chain: chainOut, protocol: "tcp", dst: a("fd00::7"), dport: 80, uid: 2003}, 15011},
		{"hairpin", "two", V4, packet{chain: chainOut, protocol: "tcp", src: a("10.0.0.12"), dst: a("10.0.0.12"), out: "lo", dport: 9090, uid: 990}, 15016},
		{"to another host", "two", V4, packet{chain: chainOut, protocol: "tcp", src: a("10.0.0.12"), dst: a("10.0.0.13"), out: "eth0", dport: 9090, uid: 990}, 0},
		{"to its application", "two", V4, packet{chain: chainOut, protocol: "tcp", src: a("10.0.0.12"), dst: a("10.0.0.12"), out: "lo", dport: 9090, uid: 989}, 0},
		{"to its application, where both have the port", "two", V4, packet{chain: chainOut, protocol: "tcp", src: a("10.0.0.12"), dst: a("10.0.0.12"), out: "lo", dport: 8080, uid: 990}, 0},
		{"excluded port", "lists", V4, packet{chain: chainOut, protocol: "tcp", dst: a("10.1.0.7"), dport: 6379, uid: 33}, 0},
		{"excluded address", "lists", V4, packet{chain: chainOut, protocol: "tcp", dst: a("10.9.0.7"), dport: 80, uid: 33}, 0},
		{"included", "lists", V4, packet{chain: chainOut, protocol: "tcp", dst: a("10.1.0.7"), dport: 80, uid: 33}, 15001},
		{"not included", "lists", V4, packet{chain: chainOut, protocol: "tcp", dst: a("11.1.0.7"), dport: 80, uid: 33}, 0},
		{"virtual v6 is always included", "lists", V6, packet{chain: chainOut, protocol: "tcp", dst: a("fd6b:6572:6567::7"), dport: 80, uid: 33}, 15001},
		{"other v6 is not", "lists", V6, packet{chain: chainOut, protocol: "tcp", dst: a("fd00::7"), dport: 80, uid: 33}, 0},
		{"a server", "lists", V4, packet{chain: chainOut, protocol: "tcp", dst: a("10.0.0.9"), dport: 80, uid: 33}, 0},
		{"excluded inbound", "lists", V4, packet{chain: chainIn, protocol: "tcp", dst: a("10.0.0.12"), dport: 8081}, 0},
		{"whom another workload excludes", "crossed", V4, packet{chain: chainOut, protocol: "tcp", dst: a("10.0.0.7"), dport: 80, uid: 2002}, 15011},
		{"whom another slice excludes", "crossed", V4, packet{chain: chainOut, protocol: "tcp", dst: a("10.0.0.7"), dport: 80, uid: 33}, 15001},
		{"DNS of whom another excludes", "crossed", V4, packet{chain: chainOut, protocol: "udp", dst: a("10.0.0.7"), dport: 53, uid: 2002}, 15053},
		{"excluded of a slice", "crossed", V4, packet{chain: chainOut, protocol: "tcp", dst: a("10.0.0.7"), dport: 80, uid: 33, slice: "job.slice"}, 15001},
		{"slice", "slice", V4, packet{chain: chainOut, protocol: "tcp", dst: a("10.0.0.7"), dport: 80, slice: "web.slice"}, 15001},
		{"a whole namespace", "netns", V4, packet{chain: chainOut, protocol: "tcp", dst: a("10.0.0.7"), dport: 80}, 15001},
		{"a namespace's Envoy", "netns", V4, packet{chain: chainOut, protocol: "tcp", dst: a("10.0.0.7"), dport: 80, uid: 990}, 0},
		{"bypass", "envoy-down-bypass", V4, packet{chain: chainOut, protocol: "tcp", dst: a("10.0.0.7"), dport: 80, uid: 33}, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			if got := verdict(t, Rules(c[test.config]), test.family, test.p); got != test.want {
				t.Errorf("goes to %d, want %d", got, test.want)
			}
		})
	}
}

// Whatever the config says, what a host is reached and run by is not taken.
func TestNothingTakesTheNeverCaptured(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := randomConfig(t)
		rules := Rules(c)
		family := rapid.SampledFrom([]Family{V4, V6}).Draw(t, "family")
		dst := netip.MustParseAddr("10.0.0.12")
		if family == V6 {
			dst = netip.MustParseAddr("fd00::12")
		}
		p := packet{
			chain: rapid.SampledFrom([]string{chainIn, chainOut}).Draw(t, "chain"), protocol: "tcp", src: dst, dst: dst,
			dport: rapid.SampledFrom([]int{22, 2200, 4646, 4647, 4648, 7401, 7402, 8300, 8301, 8302, 8500, 8502, 8600}).Draw(t, "port"),
			uid:   rapid.Uint32Range(0, 4).Draw(t, "uid"), out: "lo",
		}
		if got := verdict(t, rules, family, p); got != 0 {
			t.Fatalf("%+v goes to %d", p, got)
		}
		p.dport, p.mid = rapid.IntRange(1, 65535).Draw(t, "any port"), true
		if got := verdict(t, rules, family, p); got != 0 {
			t.Fatalf("in mid-stream: %+v goes to %d", p, got)
		}
		for _, r := range []string{chainIn, chainOut} {
			first := ""
			for _, rule := range rules {
				if rule.Family == family && rule.Chain == r {
					first = strings.Join(rule.Spec, " ")
					break
				}
			}
			if !strings.Contains(first, "! --tcp-flags FIN,SYN,RST,ACK SYN -j RETURN") {
				t.Fatalf("%s begins with %q", r, first)
			}
		}
	})
}

func randomConfig(t *rapid.T) Config {
	ports := rapid.SliceOfN(rapid.SampledFrom([]uint16{22, 80, 2200, 4646, 7401, 8080, 8300, 8500, 8600, 9090}), 0, 5)
	c := Config{DNS: rapid.Bool().Draw(t, "dns"), DNSHost: rapid.Bool().Draw(t, "host"),
		EnvoyUIDs: []uint32{0}, NeverPorts: []uint16{2200}}
	for i := range rapid.IntRange(0, 3).Draw(t, "workloads") {
		c.Workloads = append(c.Workloads, Workload{Name: "w" + strconv.Itoa(i), UIDs: []uint32{uint32(i + 1)}, OutboundPort: OutboundPort(i), InboundPort: InboundPort(i),
			EnvoyUID: rapid.SampledFrom([]uint32{0, 20, 21}).Draw(t, "envoy"),
			Ports:    ports.Draw(t, "ports"), ExcludeOutbound: ports.Draw(t, "out"), ExcludeInbound: ports.Draw(t, "in"),
			IncludeAddresses: []netip.Prefix{netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")}})
	}
	return c
}

func TestMultiportsSplitAtFifteen(t *testing.T) {
	var ports []uint16
	for p := uint16(100); p < 100+2*20; p += 2 {
		ports = append(ports, p)
	}
	got := multiports(single(ports))
	if len(got) != 2 || strings.Count(got[0][3], ",") != 14 {
		t.Errorf("20 ports in %d matches: %v", len(got), got)
	}
}
