//go:build e2e

package capture

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"
)

func TestTwoWorkloadsOnTheKernel(t *testing.T) {
	onBackends(t, func(t *testing.T, r *rig) {
		before := r.listingOf()
		r.envoys("")
		r.serve("", "sshd", ":22")
		r.serve("", "app", ":8080")
		r.serve("", "api", ":9090")
		r.serve(outNS, "far", ":9000")
		r.serve(outNS, "farssh", ":22")

		// Sessions both ways, opened before the kernel tracks any connection.
		out, err1 := dial("", uidApp, outIP+":9000")
		in, err2 := dial(outNS, 0, hostIP+":8080")
		ssh, err3 := dial(outNS, 0, hostIP+":22")
		if err1 != nil || err2 != nil || err3 != nil {
			t.Fatal(err1, err2, err3)
		}

		first := r.apply(r.config())
		second := r.apply(r.config())
		if !first.Changed || second.Changed {
			t.Errorf("first changed %v, second %v", first.Changed, second.Changed)
		}
		t.Logf("MEASURED %s: apply %s (goal 150ms), no-op %s (goal 30ms)", r.backend, first.Took.Round(time.Millisecond), second.Took.Round(time.Millisecond))
		for name, s := range map[string]session{"far direct": out, "app direct": in, "sshd direct": ssh} {
			for range 3 {
				if got := s.ask(); got != name {
					t.Errorf("an open session: %q answers, want %q", got, name)
				}
			}
		}

		r.expect("", uidApp, "240.0.0.7:80", "out15001 240.0.0.7:80")
		r.expect("", uidApp, "[fd6b:6572:6567::7]:80", "out15001 [fd6b:6572:6567::7]:80")
		r.expect("", uidApi, "240.0.0.7:80", "out15011 240.0.0.7:80")
		r.expect("", uidApp, outIP+":9000", "out15001 "+outIP+":9000")
		r.expect("", uidApp, "["+outIP6+"]:9000", "out15001 ["+outIP6+"]:9000")
		r.expect("", uidApp, outIP+":22", "farssh direct")
		for _, uid := range []uint32{0, uidEnvoy, uidAgent, 2100} {
			r.expect("", uid, outIP+":9000", "far direct")
			r.expect("", uid, "["+outIP6+"]:9000", "far direct")
		}
		r.expect(outNS, 0, hostIP+":8080", "in15006 "+hostIP+":8080")
		r.expect(outNS, 0, "["+hostIP6+"]:9090", "in15016 ["+hostIP6+"]:9090")
		r.expect(outNS, 0, hostIP+":22", "sshd direct")
		r.expect(outNS, 0, "["+hostIP6+"]:22", "sshd direct")
		r.expect("", uidApp, "127.0.0.1:8080", "app direct")
		for _, uid := range []uint32{0, 2100} { // a check by Consul's agent of this host
			r.expect("", uid, "127.0.0.1:8080", "app direct")
			r.expect("", uid, hostIP+":8080", "app direct")
		}

		dns, err := net.ListenPacket("udp", "127.0.0.1:15053")
		if err != nil {
			t.Fatal(err)
		}
		defer dns.Close()
		go echoQueries(dns)
		dns6, err := net.ListenPacket("udp", "[::1]:15053")
		if err != nil {
			t.Fatal(err)
		}
		defer dns6.Close()
		go echoQueries(dns6)
		probes, err := r.m.Verify(context.Background())
		if err != nil || !Passed(probes) {
			t.Errorf("verify: %v %+v", err, probes)
		}
		if len(probes) != 1+2*(2+2+1) {
			t.Errorf("%d probes: %+v", len(probes), probes)
		}

		begin := time.Now()
		changed, err := r.m.Remove(context.Background())
		t.Logf("MEASURED %s: teardown %s (goal 150ms)", r.backend, time.Since(begin).Round(time.Millisecond))
		if err != nil || !changed {
			t.Errorf("remove: %v, changed %v", err, changed)
		}
		if after := r.listingOf(); after != before {
			t.Errorf("before\n%s\nafter\n%s", before, after)
		}
		for name, s := range map[string]session{"far direct": out, "app direct": in, "sshd direct": ssh} {
			if got := s.ask(); got != name {
				t.Errorf("an open session after removal: %q answers, want %q", got, name)
			}
		}
		r.expect("", uidApp, outIP+":9000", "far direct")
		if changed, err := r.m.Remove(context.Background()); err != nil || changed {
			t.Errorf("second removal: %v, changed %v", err, changed)
		}
	})
}

// echoQueries turns each query into an answer.
func echoQueries(c net.PacketConn) {
	buf := make([]byte, 512)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return
		}
		buf[2] |= 0x80
		c.WriteTo(buf[:n], from)
	}
}

// A query that has the source port of one that another user has just sent to the
// same resolver is redirected all the same, and the other's stays where it was.
func TestQueriesOfOneSourcePort(t *testing.T) {
	onBackends(t, func(t *testing.T, r *rig) {
		for port, spaces := range map[string]map[string]string{"15053": {"127.0.0.1": "", "::1": ""}, "53": {outIP: outNS, outIP6: outNS}} {
			for ip, netns := range spaces {
				r.answer(netns, net.JoinHostPort(ip, port), map[string]string{"15053": "agent", "53": "real"}[port])
			}
		}
		both := r.config()
		host := r.config()
		host.DNSHost = true
		port := 41000
		for _, try := range []struct {
			name string
			c    Config
		}{{"workload", both}, {"host", host}} { // host last: its one rule a family is counted below
			name := try.name
			r.apply(try.c)
			for from, to := range map[string]string{hostIP: outIP, hostIP6: outIP6} {
				port++
				for _, step := range []struct {
					uid  uint32
					want string
				}{{uidAgent, "real"}, {uidApp, "agent"}, {uidAgent, "real"}, {uidApp, "agent"}} {
					got, err := query(step.uid, from, port, to)
					if err != nil || got != step.want+" from "+net.JoinHostPort(to, "53") {
						t.Errorf("%s: user %d from port %d to %s: %q, %v", name, step.uid, port, to, got, err)
					}
				}
			}
		}
		if text := sh(t, "iptables-"+r.backend+" -t raw -S; ip6tables-"+r.backend+" -t raw -S"); strings.Count(text, "--zone-orig") != 2 {
			t.Errorf("one generation in both families is not what stands:\n%s", text)
		}
		// Turned off, a query goes where it says.
		if err := r.m.SetDNS(context.Background(), false); err != nil {
			t.Fatal(err)
		}
		if got, err := query(uidApp, hostIP, port+1, outIP); err != nil || !strings.HasPrefix(got, "real") {
			t.Errorf("off: %q, %v", got, err)
		}
	})
}

func TestVerifyFindsWhatIsWrong(t *testing.T) {
	onNFT(t, func(t *testing.T, r *rig) {
		c := r.config()
		c.DNS = false
		c.Workloads = c.Workloads[:1]
		r.apply(c)
		want := func(text string) {
			t.Helper()
			probes, err := r.m.Verify(context.Background())
			var all []string
			for _, p := range probes {
				all = append(all, p.Why)
			}
			if err != nil || Passed(probes) || !strings.Contains(strings.Join(all, "\n"), text) {
				t.Errorf("verify: %v %q, want %q", err, all, text)
			}
		}
		want("nothing listens on the outbound port 15001")
		want("nothing listens on the inbound port 15006")
		r.envoys("")
		if probes, err := r.m.Verify(context.Background()); err != nil || !Passed(probes) {
			t.Fatalf("%v %+v", err, probes)
		}
		sh(t, "iptables-nft -t nat -I KEREGE_OUT_A 1 -j RETURN")
		want("the rules are not as they should be")
		want("does not arrive")
		// Another tool's jump before ours: only trying finds it.
		sh(t, "iptables-nft -t nat -D KEREGE_OUT_A 1; iptables-nft -t nat -I OUTPUT 1 -p tcp --dport 1 -j REDIRECT --to-ports 15011")
		want("arrives at port 15011, not at its Envoy's 15001")
	})
}

func TestEnvoyDown(t *testing.T) {
	onNFT(t, func(t *testing.T, r *rig) {
		r.serve(outNS, "far", ":9000")
		c := r.config()
		c.DNS = false
		c.Workloads[0].Bypass = true
		r.apply(c)
		begin := time.Now()
		if got := call("", uidApi, outIP+":9000"); !strings.Contains(got, "connection refused") || time.Since(begin) > time.Second {
			t.Errorf("closed: %q after %s", got, time.Since(begin))
		}
		begin = time.Now()
		for _, w := range c.Workloads {
			if err := r.m.SetDown(context.Background(), w.Name, true); err != nil {
				t.Fatal(err)
			}
		}
		r.expect("", uidApp, outIP+":9000", "far direct")
		if time.Since(begin) > time.Second {
			t.Errorf("bypass took %s", time.Since(begin))
		}
		if got := call("", uidApi, outIP+":9000"); !strings.Contains(got, "connection refused") {
			t.Errorf("closed, told of its Envoy's death: %q", got)
		}
		if err := r.m.SetDown(context.Background(), "web", false); err != nil {
			t.Fatal(err)
		}
		r.envoys("")
		r.expect("", uidApp, outIP+":9000", "out15001 "+outIP+":9000")
	})
}

func TestANamespaceIsAWorkload(t *testing.T) {
	onBackends(t, func(t *testing.T, r *rig) {
		before := r.listingOf()
		sh(t, `ip netns add alloc; ip -n alloc link set lo up
ip link add va type veth peer name eth0 netns alloc; ip addr add 10.89.0.1/24 dev va; ip link set va up
ip -n alloc addr add 10.89.0.2/24 dev eth0; ip -n alloc link set eth0 up`)
		const alloc = "/run/netns/alloc"
		c := Config{Workloads: []Workload{{Name: "web", Netns: alloc, OutboundPort: 15001, InboundPort: 15006, Ports: []uint16{8080}}},
			EnvoyUIDs: []uint32{uidEnvoy}, AgentUIDs: []uint32{0}}
		r.envoys(alloc)
		r.serve(alloc, "app", ":8080")
		r.serve("", "host", "10.89.0.1:9000")
		a := r.apply(c)
		t.Logf("MEASURED %s: apply in a namespace %s", r.backend, a.Took.Round(time.Millisecond))
		r.expect(alloc, 0, "240.0.0.7:80", "out15001 240.0.0.7:80")
		r.expect(alloc, uidApp, "10.89.0.1:9000", "out15001 10.89.0.1:9000")
		r.expect(alloc, uidEnvoy, "10.89.0.1:9000", "host direct")
		r.expect("", 0, "10.89.0.2:8080", "in15006 10.89.0.2:8080")
		if probes, err := r.m.Verify(context.Background()); err != nil || !Passed(probes) {
			t.Errorf("%v %+v", err, probes)
		}
		if text := sh(t, "iptables-"+r.backend+" -t nat -S"); strings.Contains(text, "KEREGE") {
			t.Errorf("the host was touched:\n%s", text)
		}
		if a := r.apply(c); a.Changed {
			t.Error("the second apply wrote")
		}
		// The allocation ends: that is no error, and nothing is left to do.
		sh(t, "ip netns del alloc; ip link del va")
		if _, err := r.m.Apply(context.Background(), Config{}, 0); err != nil {
			t.Error(err)
		}
		if after := r.listingOf(); after != before {
			t.Errorf("before\n%s\nafter\n%s", before, after)
		}
	})
}

func TestFamilies(t *testing.T) {
	onNFT(t, func(t *testing.T, r *rig) {
		r.envoys("")
		r.serve(outNS, "far", ":9000")
		c := r.config()
		// A host that speaks IPv6 and has no ip6tables is refused, not half captured.
		r.m.o.Commands = Commands{"iptables-nft", "ip6tables-none"}
		if _, err := r.m.Apply(context.Background(), c, 0); err == nil || !strings.Contains(err.Error(), "apt-get install iptables") {
			t.Fatalf("got %v", err)
		}
		if text := sh(t, "iptables-nft -t nat -S"); strings.Contains(text, "KEREGE") {
			t.Errorf("refused, and touched:\n%s", text)
		}
		// IPv6 only.
		r.m = New(r.o)
		sh(t, "ip addr flush dev eth0 scope global; ip addr add "+hostIP6+"/64 dev eth0 nodad")
		r.apply(c)
		r.expect("", uidApp, "["+outIP6+"]:9000", "out15001 ["+outIP6+"]:9000")
		r.expect("", uidApp, "240.0.0.7:80", "out15001 240.0.0.7:80")
		// No IPv6.
		if _, err := r.m.Remove(context.Background()); err != nil {
			t.Fatal(err)
		}
		sh(t, "sysctl -qw net.ipv6.conf.all.disable_ipv6=1; ip addr add "+hostIP+"/24 dev eth0")
		r.m.o.Commands = Commands{"iptables-nft", "ip6tables-none"}
		delete(r.m.backends, "")
		r.apply(c)
		r.expect("", uidApp, outIP+":9000", "out15001 "+outIP+":9000")
	})
}
