package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/kerege/kerege/agent/capture"
	"github.com/kerege/kerege/agent/dns"
	"github.com/kerege/kerege/api"
)

// resolver is dns.Server.
type resolver interface {
	SetNames([]dns.Name)
	Serve(net.PacketConn, net.Listener)
	Close()
}

// startDNS answers the names that are known, from disk where no server answers.
func (a *Agent) startDNS(ctx context.Context) (func(), error) {
	if !a.cfg.DNS.Enabled || a.opt.Explicit != nil {
		return func() {}, nil
	}
	s := dns.New(a.dnsOptions())
	sockets, err := a.listenDNS(ctx)
	if err != nil {
		return nil, err
	}
	for _, p := range sockets {
		s.Serve(p.packets, p.streams)
	}
	a.mu.Lock()
	a.resolver, a.named, a.spaces, a.spaceSockets, a.sockets = s, nil, map[string]bool{}, nil, sockets
	a.mu.Unlock()
	a.answerNames()
	return func() {
		a.mu.Lock()
		a.resolver, a.sockets = nil, nil
		a.mu.Unlock()
		s.Close()
	}, nil
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
func (a *Agent) listenDNS(ctx context.Context) ([]pair, error) {
	p, err := listenPair(ctx, a.cfg.DNS.Address)
	if err != nil {
		return nil, err
	}
	out := []pair{p}
	host, port, _ := net.SplitHostPort(p.packets.LocalAddr().String())
	if host != "127.0.0.1" || noIPv6("") {
		return out, nil
	}
	six, err := listenPair(ctx, net.JoinHostPort("::1", port))
	if err != nil {
		return nil, errors.Join(err, p.packets.Close(), p.streams.Close())
	}
	return append(out, six), nil
}

// answerNames brings the resolver in step with the names that are known, and
// opens it in each workload's network namespace.
func (a *Agent) answerNames() {
	var list []name
	heard := false
	a.memory.look(func(s *state) { list, heard = s.Names, !s.Heard.IsZero() })
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
	if !heard || slices.Equal(list, a.named) && a.named != nil {
		return // not known yet is not unknown: the resolver must not deny a name
	}
	out := dnsNames(list)
	a.resolver.SetNames(out)
	a.named = append([]name{}, list...)
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

// resolveIn opens the resolver's sockets in a network namespace; mu is held.
func (a *Agent) resolveIn(netns string) error {
	var packets net.PacketConn
	var streams net.Listener
	err := capture.InNamespace(netns, func() (err error) {
		if packets, err = net.ListenPacket("udp", a.cfg.DNS.Address); err != nil {
			return err
		}
		if streams, err = net.Listen("tcp", a.cfg.DNS.Address); err != nil {
			packets.Close()
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("serving DNS in %s: %w", netns, err)
	}
	a.resolver.Serve(packets, streams)
	a.spaceOpened(netns, packets, streams)
	return nil
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
