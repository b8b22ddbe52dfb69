package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"github.com/kerege/kerege/agent/dns"
	"github.com/kerege/kerege/api"
)

// resolver is dns.Server.
type resolver interface {
	SetNames([]dns.Name)
	Answers() dns.Answers
	Serve(net.PacketConn, net.Listener)
	Close()
}

// startDNS answers the names that are known, from disk where no server answers.
func (a *Agent) startDNS(ctx context.Context) (func(), error) {
	if !a.cfg.DNS.Enabled || a.opt.Explicit != nil {
		return func() {}, nil
	}
	sockets, taken, err := a.openDNS(ctx)
	if err != nil {
		return nil, err
	}
	s := dns.New(a.dnsOptions())
	spaces := map[string]bool{}
	var known []name
	a.memory.look(func(st *state) { known = st.known() })
	if known != nil { // before it reads: a stand-in knew them too
		s.SetNames(dnsNames(known))
	}
	for _, p := range sockets {
		s.Serve(p.packets, p.streams)
		if p.netns != "" {
			spaces[p.netns] = true
		}
	}
	if taken != nil {
		if err := send(taken, notice{Taken: true}, nil); err != nil {
			a.log.Warn("the stand-in of the agent before answers names too", "error", err)
		}
	}
	a.mu.Lock()
	a.resolver, a.named, a.spaces, a.spaceSockets, a.sockets = s, known, spaces, nil, sockets
	for _, p := range sockets {
		if p.netns != "" {
			a.spaceOpened(p.netns, spaceGone{a, p})
		}
	}
	a.mu.Unlock()
	a.answerNames()
	return func() {
		a.mu.Lock()
		a.resolver, a.sockets = nil, nil
		a.mu.Unlock()
		s.Close()
		if taken != nil {
			taken.Close()
		}
	}, nil
}

// openTries bounds the wait for a stand-in that has yet to see that its agent
// died: 2 s.
const openTries = 40

// openDNS opens the resolver's addresses. Where a stand-in of the agent before
// holds them, it hands over what it holds, and answers again when taken ends.
func (a *Agent) openDNS(ctx context.Context) (sockets []pair, taken *net.UnixConn, err error) {
	for range openTries {
		if sockets, err = a.listenDNS(); err == nil || !errors.Is(err, syscall.EADDRINUSE) {
			return sockets, nil, err
		}
		list, conn, asked := takeOver(filepath.Join(a.cfg.DataDir, "capture"))
		if asked == nil {
			sockets, asked = a.choose(list)
			if asked == nil {
				return sockets, conn, nil
			}
			conn.Close()
		}
		a.log.Debug("the resolver's address is taken", "error", err, "stand_in", asked)
		select {
		case <-ctx.Done():
			return nil, nil, ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
	return nil, nil, err
}

// choose opens what was handed over, and leaves out network namespaces that are
// no more.
func (a *Agent) choose(list []held) (out []pair, err error) {
	found := false
	for _, h := range list {
		if err == nil && h.current() {
			var p pair
			if p, err = h.open(); err == nil {
				out = append(out, p)
				found = found || h.netns == "" && p.packets.LocalAddr().String() == a.cfg.DNS.Address
			}
		}
		h.close()
	}
	if err == nil && !found {
		err = fmt.Errorf("a stand-in does not hold %s", a.cfg.DNS.Address)
	}
	if err != nil {
		for _, p := range out {
			_ = p.close()
		}
		return nil, err
	}
	return out, nil
}

func (a *Agent) dnsOptions() dns.Options {
	out := dns.Options{Address: a.cfg.DNS.Address, Domain: a.cfg.DNS.Domain, Upstreams: a.cfg.DNS.Upstreams, Logger: a.log.Named("dns")}
	if a.cfg.Consul != nil {
		out.Datacenter = a.cfg.Consul.Datacenter
	}
	return out
}

// listenDNS opens the resolver's address, and the same port of ::1 where there
// is IPv6.
func (a *Agent) listenDNS() ([]pair, error) {
	p, err := listenPair("", a.cfg.DNS.Address)
	if err != nil {
		return nil, err
	}
	out := []pair{p}
	host, port, err := net.SplitHostPort(p.packets.LocalAddr().String())
	if err != nil || host != "127.0.0.1" || noIPv6("") {
		return out, nil
	}
	six, err := listenPair("", net.JoinHostPort("::1", port))
	if err != nil {
		return nil, errors.Join(err, p.close())
	}
	return append(out, six), nil
}

// answerNames brings the resolver in step with the names that are known, and
// opens it in each workload's network namespace.
func (a *Agent) answerNames() {
	var known []name
	a.memory.look(func(s *state) { known = s.known() })
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.resolver == nil {
		return
	}
	for _, w := range a.workloads {
		if n := w.who.netns; n != "" && !a.spaces[n] {
			if err := a.resolveIn(n); err != nil {
				a.log.Warn("names are not answered in a network namespace yet", "netns", n, "error", err)
				continue
			}
			a.spaces[n] = true
		}
	}
	if known == nil || slices.Equal(known, a.named) && a.named != nil {
		return // not known yet is not unknown: the resolver must not deny a name
	}
	// At once, not within a second: who stands in for this agent reads them there.
	_ = a.memory.save() // said already; it is tried again
	out := dnsNames(known)
	a.resolver.SetNames(out)
	a.named = known
	a.log.Debug("names", "count", len(out))
}

func dnsNames(list []name) []dns.Name {
	out := make([]dns.Name, 0, len(list))
	for _, n := range list {
		x := dns.Name{Service: n.Service, Consul: n.Consul}
		x.V4, _ = netip.ParseAddr(n.V4) // an invalid one is no record
		x.V6, _ = netip.ParseAddr(n.V6)
		out = append(out, x)
	}
	return out
}

// resolveIn opens the resolver's sockets in a network namespace, on ::1 too where
// it has IPv6; mu is held.
func (a *Agent) resolveIn(netns string) error {
	addresses := []string{a.cfg.DNS.Address}
	if host, port, _ := net.SplitHostPort(a.cfg.DNS.Address); host == "127.0.0.1" && !noIPv6(netns) {
		addresses = append(addresses, net.JoinHostPort("::1", port))
	}
	var opened []pair
	for _, address := range addresses {
		p, err := listenPair(netns, address)
		if err != nil {
			for _, p := range opened {
				_ = p.close()
			}
			return fmt.Errorf("in %s: %w", netns, err)
		}
		opened = append(opened, p)
	}
	var closers []io.Closer
	for _, p := range opened {
		a.resolver.Serve(p.packets, p.streams)
		a.sockets = append(a.sockets, p)
		closers = append(closers, spaceGone{a, p})
		if a.guard != nil {
			if err := a.guard.keep(p); err != nil {
				a.log.Warn("nobody will answer names in a network namespace when this agent dies", "netns", netns, "error", err)
			}
		}
	}
	a.spaceOpened(netns, closers...)
	return nil
}

// spaceGone is a pair in a network namespace that ends, as something to close;
// mu is held. The stand-in's copies go, too: they keep a namespace alive.
type spaceGone struct {
	a *Agent
	pair
}

func (s spaceGone) Close() error {
	s.a.sockets = slices.DeleteFunc(s.a.sockets, func(p pair) bool { return p == s.pair })
	err := s.close()
	if s.a.guard != nil {
		err = errors.Join(err, s.a.guard.tell(notice{Gone: s.netns}))
	}
	return err
}

// Names are the mesh names that this node answers, sorted as the servers said them.
func (a *Agent) Names() []api.AgentName {
	out := []api.AgentName{}
	a.memory.look(func(s *state) {
		for _, n := range s.Names {
			x := api.AgentName{Name: n.Service + "." + a.cfg.DNS.Domain, V4: n.V4, V6: n.V6}
			if n.Consul {
				x.Also = []string{n.Service + ".service.consul"}
			}
			out = append(out, x)
		}
	})
	return out
}
