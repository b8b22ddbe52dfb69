package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/miekg/dns"
)

// Options of a Server. The zero value of each is its default.
type Options struct {
	Address    string   // host:port on loopback; "127.0.0.1:15053". The same port of ::1 is served where there is IPv6
	Domain     string   // "mesh"
	Datacenter string   // Consul's local datacenter, for <service>.service.<dc>.consul; "" is not answered
	Upstreams  []string // host:port; none: those of Resolv, read again when it changes
	Resolv     string   // "/etc/resolv.conf"
	Logger     hclog.Logger
}

// Server answers on loopback, udp and tcp.
type Server struct {
	opt     Options
	log     hclog.Logger
	zone    *zone
	forward *forwarder
	count   counters

	mu      sync.Mutex
	servers []*dns.Server
	running sync.WaitGroup
}

// New makes a server; nothing listens before Start.
func New(opt Options) *Server {
	if opt.Address == "" {
		opt.Address = "127.0.0.1:15053"
	}
	if opt.Domain == "" {
		opt.Domain = "mesh"
	}
	if opt.Resolv == "" {
		opt.Resolv = "/etc/resolv.conf"
	}
	if opt.Logger == nil {
		opt.Logger = hclog.NewNullLogger()
	}
	return &Server{opt: opt, log: opt.Logger, zone: newZone(opt.Domain, opt.Datacenter), forward: newForwarder(opt)}
}

// SetNames replaces all mesh names.
func (s *Server) SetNames(list []Name) { s.zone.set(list) }

// Start listens; Close stops. An error names the address that is taken.
func (s *Server) Start() error {
	host, port, err := net.SplitHostPort(s.opt.Address)
	if err != nil {
		return fmt.Errorf("serving DNS: %w", err)
	}
	if err := s.listen(s.opt.Address); err != nil {
		return err
	}
	if host != "127.0.0.1" {
		return nil
	}
	if err := s.listen(net.JoinHostPort("::1", port)); err != nil && !noIPv6(err) {
		s.Close()
		return err
	}
	return nil
}

func (s *Server) listen(address string) error {
	packets, err := net.ListenPacket("udp", address)
	if err != nil {
		return fmt.Errorf("serving DNS: %w", err)
	}
	streams, err := net.Listen("tcp", packets.LocalAddr().String())
	if err != nil {
		packets.Close()
		return fmt.Errorf("serving DNS: %w", err)
	}
	s.Serve(packets, streams)
	return nil
}

// Serve answers on sockets that the caller opened, such as in a network
// namespace. They are closed by Close.
func (s *Server) Serve(packets net.PacketConn, streams net.Listener) {
	for _, socket := range []any{packets, streams} {
		if err := keepLocal(socket); err != nil {
			s.log.Warn("DNS is not bound to loopback's interface", "address", packets.LocalAddr(), "error", err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	udp := &dns.Server{PacketConn: packets, Handler: s, UDPSize: maxUDP, MsgAcceptFunc: accept}
	tcp := &dns.Server{Listener: streams, Handler: s, MsgAcceptFunc: accept, MaxTCPQueries: 128,
		ReadTimeout: 5 * time.Second, WriteTimeout: 5 * time.Second, IdleTimeout: func() time.Duration { return 10 * time.Second }}
	for _, server := range []*dns.Server{udp, tcp} {
		started := make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		ended := make(chan struct{})
		s.running.Go(func() {
			defer close(ended)
			if err := server.ActivateAndServe(); err != nil && !errors.Is(err, net.ErrClosed) {
				s.log.Error("DNS stopped", "address", packets.LocalAddr(), "error", err)
			}
		})
		select {
		case <-started:
		case <-ended:
		}
		s.servers = append(s.servers, server)
	}
}

// Addresses are where it listens for packets.
func (s *Server) Addresses() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []string
	for _, server := range s.servers {
		if server.PacketConn != nil {
			list = append(list, server.PacketConn.LocalAddr().String())
		}
	}
	return list
}

// Close stops listening and waits for what is being answered.
func (s *Server) Close() {
	s.mu.Lock()
	servers := s.servers
	s.servers = nil
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	for _, server := range servers {
		if err := server.ShutdownContext(ctx); err != nil {
			s.log.Debug("stopping DNS", "error", err)
		}
	}
	s.running.Wait()
}

// accept drops what is no plain question before anything of it is read.
func accept(h dns.Header) dns.MsgAcceptAction {
	if response := h.Bits&(1<<15) != 0; response {
		return dns.MsgIgnore
	}
	if opcode := int(h.Bits>>11) & 0xf; opcode != dns.OpcodeQuery {
		return dns.MsgRejectNotImplemented
	}
	if h.Qdcount != 1 || h.Ancount > 0 || h.Nscount > 0 || h.Arcount > 2 {
		return dns.MsgReject
	}
	return dns.MsgAccept
}

// ServeDNS answers one question.
func (s *Server) ServeDNS(w dns.ResponseWriter, q *dns.Msg) {
	if !local(w.RemoteAddr(), w.LocalAddr()) {
		return // never an open resolver
	}
	m := s.zone.answer(q.Question[0])
	count := &s.count.mesh
	if opt := q.IsEdns0(); opt != nil && opt.Version() != 0 {
		m = &dns.Msg{}
		m.Rcode = dns.RcodeBadVers
	}
	if m != nil {
		rcode, authoritative := m.Rcode, m.Authoritative
		m.SetReply(q)
		m.Rcode, m.Authoritative, m.RecursionAvailable = rcode, authoritative, true
	} else {
		_, overTCP := w.LocalAddr().(*net.TCPAddr)
		m = s.forward.ask(q, overTCP)
		count = &s.count.upstream
	}
	if m.Rcode == dns.RcodeServerFailure {
		count = &s.count.failed
	}
	count.Add(1)
	fit(m, q, w.LocalAddr())
	if err := w.WriteMsg(m); err != nil {
		s.log.Debug("answering DNS", "error", err)
	}
}

// maxUDP is the largest packet that is sent or taken over UDP.
const maxUDP = 1232

// fit makes an answer no larger than its asker allows, with TC set where
// something was left out.
func fit(m, q *dns.Msg, local net.Addr) {
	size := dns.MinMsgSize
	asked := q.IsEdns0()
	if asked != nil {
		size = min(max(int(asked.UDPSize()), dns.MinMsgSize), maxUDP)
		if m.IsEdns0() == nil {
			m.SetEdns0(maxUDP, asked.Do())
		}
	} else {
		m.Extra = withoutOPT(m.Extra)
	}
	if _, tcp := local.(*net.TCPAddr); tcp {
		size = dns.MaxMsgSize
	}
	if m.Rcode > 0xf && asked == nil {
		m.Rcode = dns.RcodeServerFailure // the rest of the code has no place without EDNS
	}
	m.Truncate(size)
}

// keepLocal makes the kernel drop what did not come over loopback's interface,
// where a socket listens on a loopback address: net.ipv4.conf.*.route_localnet,
// which container engines set, lets neighbours on the network reach 127.0.0.1.
// What capture redirects comes over that interface too.
func keepLocal(socket any) error {
	var here net.Addr
	switch x := socket.(type) {
	case net.PacketConn:
		here = x.LocalAddr()
	case net.Listener:
		here = x.Addr()
	}
	conn, ok := socket.(syscall.Conn)
	if !ok || !addrOf(here).IsLoopback() {
		return nil
	}
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var set error
	err = raw.Control(func(fd uintptr) {
		set = syscall.SetsockoptString(int(fd), syscall.SOL_SOCKET, syscall.SO_BINDTODEVICE, "lo")
	})
	return errors.Join(err, set)
}

func withoutOPT(list []dns.RR) []dns.RR {
	kept := list[:0:0]
	for _, rr := range list {
		if rr.Header().Rrtype != dns.TypeOPT {
			kept = append(kept, rr)
		}
	}
	return kept
}

// local says whether a question comes from this host itself: what arrives at
// loopback does, also redirected there by capture with its own address; anything
// else only from the very address it was sent to.
func local(remote, here net.Addr) bool {
	r, h := addrOf(remote), addrOf(here)
	return r.IsValid() && (h.IsLoopback() || r == h)
}

func addrOf(a net.Addr) netip.Addr {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap().WithZone("")
}

// noIPv6 is what a kernel without IPv6 answers to listening on ::1.
func noIPv6(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && (errors.Is(err, syscall.EADDRNOTAVAIL) || errors.Is(err, syscall.EAFNOSUPPORT))
}
