package dns

import (
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var api = Name{Service: "api", V4: netip.MustParseAddr("240.1.2.3"), V6: netip.MustParseAddr("fd6b:6572:6567::1"), Consul: true}

// start runs a server whose resolver is upstream.
func start(t *testing.T, upstream string) *Server {
	t.Helper()
	s := New(Options{Address: "127.0.0.1:0", Upstreams: []string{upstream}, Datacenter: "dc1"})
	s.Serve(both(t))
	t.Cleanup(s.Close)
	s.SetNames([]Name{api, {Service: "web", V4: netip.MustParseAddr("240.1.2.4")}})
	return s
}

// both listens on one free port over UDP and TCP.
func both(t *testing.T) (net.PacketConn, net.Listener) {
	t.Helper()
	for range 50 {
		pc, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		if l, err := net.Listen("tcp", pc.LocalAddr().String()); err == nil {
			return pc, l
		}
		pc.Close()
	}
	t.Fatal("no port is free over UDP and TCP")
	return nil, nil
}

// resolver is somebody else's DNS server; answers counts what it said.
func resolver(t *testing.T, handle dns.HandlerFunc) (address string, answers *atomic.Int64, stop func()) {
	t.Helper()
	pc, l := both(t)
	answers = new(atomic.Int64)
	counted := dns.HandlerFunc(func(w dns.ResponseWriter, m *dns.Msg) { answers.Add(1); handle(w, m) })
	servers := []*dns.Server{{PacketConn: pc, Handler: counted}, {Listener: l, Handler: counted}}
	for _, s := range servers {
		up := make(chan struct{})
		s.NotifyStartedFunc = func() { close(up) }
		go s.ActivateAndServe()
		<-up
	}
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			for _, s := range servers {
				s.Shutdown()
			}
		}
	}
	t.Cleanup(stop)
	return pc.LocalAddr().String(), answers, stop
}

func echoA(w dns.ResponseWriter, q *dns.Msg) {
	m := new(dns.Msg)
	m.SetReply(q)
	m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 300}, A: net.IPv4(192, 0, 2, 1)}}
	w.WriteMsg(m)
}

func ask(t *testing.T, s *Server, network, name string, qtype uint16) *dns.Msg {
	t.Helper()
	q := new(dns.Msg)
	q.SetQuestion(name, qtype)
	c := &dns.Client{Net: network, Timeout: 5 * time.Second}
	m, _, err := c.Exchange(q, s.Addresses()[0])
	if err != nil {
		t.Fatalf("%s %s: %v", name, dns.TypeToString[qtype], err)
	}
	return m
}

func TestNames(t *testing.T) {
	upstream, forwarded, _ := resolver(t, echoA)
	s := start(t, upstream)
	for _, c := range []struct {
		name   string
		qtype  uint16
		rcode  int
		answer string // "" none
		asked  int64  // of the resolver
	}{
		{"api.mesh.", dns.TypeA, dns.RcodeSuccess, "240.1.2.3", 0},
		{"API.Mesh.", dns.TypeA, dns.RcodeSuccess, "240.1.2.3", 0},
		{"api.mesh.", dns.TypeAAAA, dns.RcodeSuccess, "fd6b:6572:6567::1", 0},
		{"web.mesh.", dns.TypeAAAA, dns.RcodeSuccess, "", 0},
		{"api.mesh.", dns.TypeSRV, dns.RcodeSuccess, "", 0},
		{"nosuch.mesh.", dns.TypeA, dns.RcodeNameError, "", 0},
		{"api.service.consul.", dns.TypeA, dns.RcodeSuccess, "240.1.2.3", 0},
		{"api.service.dc1.consul.", dns.TypeA, dns.RcodeSuccess, "240.1.2.3", 0},
		{"api.service.dc2.consul.", dns.TypeA, dns.RcodeSuccess, "192.0.2.1", 1},
		{"api.service.consul.", dns.TypeSRV, dns.RcodeSuccess, "192.0.2.1", 1},
		{"v1.api.service.consul.", dns.TypeA, dns.RcodeSuccess, "192.0.2.1", 1},
		{"web.service.consul.", dns.TypeA, dns.RcodeSuccess, "192.0.2.1", 1},
		{"example.com.", dns.TypeA, dns.RcodeSuccess, "192.0.2.1", 1},
	} {
		for _, network := range []string{"udp", "tcp"} {
			before := forwarded.Load()
			m := ask(t, s, network, c.name, c.qtype)
			got := ""
			for _, rr := range m.Answer {
				switch r := rr.(type) {
				case *dns.A:
					got = r.A.String()
				case *dns.AAAA:
					got = r.AAAA.String()
				}
				if c.asked == 0 && rr.Header().Ttl > 5 {
					t.Errorf("%s: ttl %d", c.name, rr.Header().Ttl)
				}
			}
			if m.Rcode != c.rcode || got != c.answer || forwarded.Load()-before != c.asked {
				t.Errorf("%s %s %s: rcode %d, %q, resolver asked %d times", network, c.name, dns.TypeToString[c.qtype], m.Rcode, got, forwarded.Load()-before)
			}
		}
	}
	s.SetNames(nil)
	if m := ask(t, s, "udp", "api.mesh.", dns.TypeA); m.Rcode != dns.RcodeNameError {
		t.Errorf("a name that is gone is still answered: %v", m)
	}
}

func TestStaleAnswersWhenNoResolverAnswers(t *testing.T) {
	upstream, _, stop := resolver(t, echoA)
	s := start(t, upstream)
	ask(t, s, "udp", "example.com.", dns.TypeA)
	stop()
	if m := ask(t, s, "udp", "example.com.", dns.TypeA); len(m.Answer) != 1 || m.Answer[0].Header().Ttl > 5 {
		t.Errorf("not served from before: %v", m)
	}
	begin := time.Now()
	if m := ask(t, s, "udp", "other.example.", dns.TypeA); m.Rcode != dns.RcodeServerFailure || time.Since(begin) > 3*time.Second {
		t.Errorf("got rcode %d after %s", m.Rcode, time.Since(begin))
	}
	if m := s.forward.cache.get(key{name: "example.com.", qtype: dns.TypeA, class: dns.ClassINET}, time.Now().Add(300*time.Second+staleFor+time.Second)); m != nil {
		t.Error("served although too old")
	}
}

func TestAnswersFitTheAsker(t *testing.T) {
	upstream, _, _ := resolver(t, func(w dns.ResponseWriter, q *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(q)
		for i := range 60 {
			m.Answer = append(m.Answer, &dns.TXT{Hdr: dns.RR_Header{Name: q.Question[0].Name, Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: 1}, Txt: []string{fmt.Sprintf("%040d", i)}})
		}
		m.SetEdns0(4096, false)
		w.WriteMsg(m)
	})
	s := start(t, upstream)
	for _, size := range []uint16{0, 100, 800, 65000} {
		conn, err := net.Dial("udp", s.Addresses()[0])
		if err != nil {
			t.Fatal(err)
		}
		q := new(dns.Msg)
		q.SetQuestion("big.example.", dns.TypeTXT)
		allowed := dns.MinMsgSize
		if size > 0 {
			q.SetEdns0(size, false)
			allowed = min(max(int(size), dns.MinMsgSize), maxUDP)
		}
		text, err := q.Pack()
		if err != nil {
			t.Fatal(err)
		}
		conn.SetDeadline(time.Now().Add(5 * time.Second))
		if _, err := conn.Write(text); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 65535)
		n, err := conn.Read(buf)
		conn.Close()
		m := new(dns.Msg)
		if err != nil || m.Unpack(buf[:n]) != nil || n > allowed || !m.Truncated {
			t.Errorf("with %d: %d bytes, allowed %d, truncated %v, %v", size, n, allowed, m.Truncated, err)
		}
	}
	if m := ask(t, s, "tcp", "big.example.", dns.TypeTXT); len(m.Answer) != 60 {
		t.Errorf("over TCP %d records", len(m.Answer))
	}
}

func TestOnlyTheHostIsAnswered(t *testing.T) {
	a := func(s string) net.Addr { return net.UDPAddrFromAddrPort(netip.MustParseAddrPort(s)) }
	for _, c := range []struct {
		remote, local string
		want          bool
	}{
		{"127.0.0.1:9", "127.0.0.1:53", true}, {"10.0.0.5:9", "127.0.0.1:53", true}, {"[::1]:9", "[::1]:53", true},
		{"10.0.0.5:9", "10.0.0.5:53", true}, {"10.0.0.6:9", "10.0.0.5:53", false}, {"8.8.8.8:9", "[::]:53", false},
	} {
		if got := local(a(c.remote), a(c.local)); got != c.want {
			t.Errorf("from %s to %s: %v", c.remote, c.local, got)
		}
	}
}

func TestResolvConfIsFollowed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	write := func(text string, at time.Time) {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	write("nameserver 192.0.2.53\nnameserver 192.0.2.53\n", time.Unix(1000, 0))
	f := newForwarder(New(Options{Resolv: path}).opt)
	if got := fmt.Sprint(f.upstreams()); got != "[192.0.2.53:53]" {
		t.Errorf("got %s", got)
	}
	write("nameserver 192.0.2.54\n", time.Unix(2000, 0))
	f.read = time.Time{}
	if got := fmt.Sprint(f.upstreams()); got != "[192.0.2.54:53]" {
		t.Errorf("after a change got %s", got)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	f.read = time.Time{}
	if got := fmt.Sprint(f.upstreams()); got != "[192.0.2.54:53]" {
		t.Errorf("after removal got %s", got)
	}
}

func TestNotKnownYetIsNotUnknown(t *testing.T) {
	upstream, forwarded, _ := resolver(t, echoA)
	s := New(Options{Upstreams: []string{upstream}})
	s.Serve(both(t))
	t.Cleanup(s.Close)
	if m := ask(t, s, "udp", "api.mesh.", dns.TypeA); m.Rcode != dns.RcodeServerFailure || forwarded.Load() > 0 {
		t.Errorf("before the first names: rcode %d, forwarded %d", m.Rcode, forwarded.Load())
	}
	if m := ask(t, s, "udp", "api.service.consul.", dns.TypeA); len(m.Answer) != 1 || forwarded.Load() != 1 {
		t.Errorf("a name of Consul's: %v", m)
	}
}

func TestNobodyWaitsAgainForDeadResolvers(t *testing.T) {
	upstream, _, stop := resolver(t, echoA)
	s := start(t, upstream)
	ask(t, s, "udp", "example.com.", dns.TypeA)
	stop()
	hole, err := net.ListenPacket("udp", upstream) // takes packets and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer hole.Close()
	begin := time.Now()
	if m := ask(t, s, "udp", "example.com.", dns.TypeA); len(m.Answer) != 1 || time.Since(begin) > upstreamTimeout+time.Second {
		t.Errorf("first: %v after %s", m, time.Since(begin))
	}
	begin = time.Now()
	for range 5 {
		if m := ask(t, s, "udp", "example.com.", dns.TypeA); len(m.Answer) != 1 {
			t.Errorf("then: %v", m)
		}
	}
	if time.Since(begin) > 500*time.Millisecond {
		t.Errorf("five answers from before took %s", time.Since(begin))
	}
}

// A resolver that answers something else, nothing readable, or a name that
// points at itself, is as one that does not answer.
func TestBadAnswersAreNotPassedOn(t *testing.T) {
	for name, bad := range map[string]func(q *dns.Msg) []byte{
		"another question": func(q *dns.Msg) []byte {
			m := new(dns.Msg)
			m.SetReply(q)
			m.Question[0].Name = "evil.example."
			b, _ := m.Pack()
			return b
		},
		"loop": func(q *dns.Msg) []byte {
			return append([]byte{byte(q.Id >> 8), byte(q.Id), 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}, 0xc0, 0x0c, 0, 1, 0, 1)
		},
		"garbage": func(*dns.Msg) []byte { return []byte("HTTP/1.1 400 Bad Request") },
	} {
		t.Run(name, func(t *testing.T) {
			upstream, _, _ := resolver(t, func(w dns.ResponseWriter, q *dns.Msg) { w.Write(bad(q)) })
			s := start(t, upstream)
			if m := ask(t, s, "udp", "example.com.", dns.TypeA); m.Rcode != dns.RcodeServerFailure || len(m.Answer) > 0 {
				t.Errorf("got %v", m)
			}
		})
	}
}

// What is no question gets no more bytes than it has.
func TestGarbageIsNotAmplified(t *testing.T) {
	upstream, _, _ := resolver(t, echoA)
	s := start(t, upstream)
	conn, err := net.Dial("udp", s.Addresses()[0])
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for name, packet := range map[string][]byte{
		"loop":          {0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 0x0c, 0, 1, 0, 1},
		"short":         {0, 1, 1},
		"two questions": append([]byte{0, 1, 1, 0, 0, 2, 0, 0, 0, 0, 0, 0}, make([]byte, 40)...),
		"an update":     append([]byte{0, 1, 0x28, 0, 0, 1, 0, 0, 0, 0, 0, 0}, make([]byte, 40)...),
		"an answer":     append([]byte{0, 1, 0x81, 0, 0, 1, 0, 0, 0, 0, 0, 0}, make([]byte, 40)...),
	} {
		if _, err := conn.Write(packet); err != nil {
			t.Fatal(err)
		}
		conn.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		buf := make([]byte, 4096)
		if n, err := conn.Read(buf); err == nil && n > len(packet) {
			t.Errorf("%s: %d bytes answered with %d", name, len(packet), n)
		}
	}
	if m := ask(t, s, "udp", "api.mesh.", dns.TypeA); len(m.Answer) != 1 {
		t.Errorf("afterwards: %v", m)
	}
	q := new(dns.Msg)
	q.SetQuestion("api.mesh.", dns.TypeA)
	q.SetEdns0(1232, false)
	q.IsEdns0().SetVersion(1)
	m, _, err := new(dns.Client).Exchange(q, s.Addresses()[0])
	if err != nil || m.Rcode != dns.RcodeBadVers || len(m.Answer) > 0 {
		t.Errorf("EDNS version 1: %v, %v", m, err)
	}
}

func BenchmarkMeshName(b *testing.B) {
	z := newZone("mesh", "")
	z.set([]Name{api})
	q := new(dns.Msg)
	q.SetQuestion("api.mesh.", dns.TypeA)
	for b.Loop() {
		m := z.answer(q.Question[0])
		m.SetReply(q)
		fit(m, q, &net.UDPAddr{})
		if _, err := m.Pack(); err != nil {
			b.Fatal(err)
		}
	}
}

// FuzzAnswer feeds packets as they come off the wire.
func FuzzAnswer(f *testing.F) {
	for _, name := range []string{"api.mesh.", "x.", "api.service.consul."} {
		q := new(dns.Msg)
		q.SetQuestion(name, dns.TypeA)
		text, err := q.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(text)
	}
	f.Add([]byte{0, 1, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0xc0, 0x0c, 0, 1, 0, 1}) // a name that points at itself
	z := newZone("mesh", "dc1")
	z.set([]Name{api})
	f.Fuzz(func(t *testing.T, packet []byte) {
		q := new(dns.Msg)
		if q.Unpack(packet) != nil || len(q.Question) != 1 {
			return
		}
		m := z.answer(q.Question[0])
		if m == nil {
			return
		}
		m.SetReply(q)
		fit(m, q, &net.UDPAddr{})
		text, err := m.Pack()
		if err == nil && len(text) > maxUDP {
			t.Errorf("%d bytes", len(text))
		}
	})
}
