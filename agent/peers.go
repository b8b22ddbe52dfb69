package agent

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"github.com/kerege/kerege/agent/capture"
	keregev1 "github.com/kerege/kerege/api/kerege/v1"
)

// peersWithin is how long a page waits for a server to say who this host talks to.
const peersWithin = 3 * time.Second

// knows is what the mesh tells of this host's connections. Where no server
// answers, nobody counts as in the mesh, and the page says so.
func (a *Agent) knows(ctx context.Context, c capture.Config, ssh string, accept int) capture.Known {
	out := capture.Known{FoundBy: map[string]string{}, Mode: map[string]string{}, Accept: accept}
	a.mu.Lock()
	for _, w := range a.workloads {
		out.FoundBy[w.key()], out.Mode[w.key()] = w.who.by, w.MTLS
	}
	a.mu.Unlock()
	virtual := map[netip.Addr]string{}
	a.memory.look(func(s *state) {
		for _, n := range s.Names {
			for _, text := range []string{n.V4, n.V6} {
				if addr, err := netip.ParseAddr(text); err == nil {
					virtual[addr] = n.Service
				}
			}
		}
	})
	peers, outbound, err := a.peers(ctx, c)
	if err != nil {
		out.Unknown = err.Error()
		a.log.Warn("nobody says who this host's peers are", "error", err)
	}
	out.Outbound = outbound
	host := func(addr netip.Addr) *keregev1.Peer { return peers[addr.Unmap().String()] }
	out.InMesh = func(addr netip.Addr) bool { return host(addr).GetInMesh() }
	out.HostName = func(addr netip.Addr) string { return host(addr).GetNode() }
	out.Service = func(at netip.AddrPort) string {
		if name := virtual[at.Addr().Unmap()]; name != "" {
			return name
		}
		return peers[netip.AddrPortFrom(at.Addr().Unmap(), at.Port()).String()].GetService()
	}
	if ssh != "" && len(c.Sessions) > 0 {
		out.Operator = &c.Sessions[0]
	}
	return out
}

// peers asks a server who is at the other end of the workloads' connections, and
// what calls of no service meet.
func (a *Agent) peers(ctx context.Context, c capture.Config) (map[string]*keregev1.Peer, string, error) {
	if err := a.standing("servers"); err != nil {
		return nil, "", err
	}
	hosts, destinations, err := capture.Peers(c)
	if err != nil {
		return nil, "", err
	}
	req := &keregev1.PeersRequest{}
	for _, h := range hosts {
		req.Addresses = append(req.Addresses, h.Unmap().String())
	}
	for _, d := range destinations {
		req.Addresses = append(req.Addresses, netip.AddrPortFrom(d.Addr().Unmap(), d.Port()).String())
	}
	const most = 4096 // of one question
	req.Addresses = req.Addresses[:min(len(req.Addresses), most)]
	ctx, cancel := context.WithTimeout(ctx, peersWithin)
	defer cancel()
	answer, err := keregev1.NewNodeClient(a.conn()).Peers(ctx, req)
	if err != nil {
		return nil, "", fmt.Errorf("asking a server who is in the mesh: %w", err)
	}
	out := map[string]*keregev1.Peer{}
	for _, p := range answer.GetPeers() {
		out[p.GetAddress()] = p
	}
	return out, answer.GetOutbound(), nil
}
