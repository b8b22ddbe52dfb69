package server

import (
	"context"
	"net/netip"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kerege/kerege/api"
	keregev1 "github.com/kerege/kerege/api/kerege/v1"
	"github.com/kerege/kerege/mesh"
)

const maxPeers = 4096 // addresses in one question

// Peers answers a node that asks who its callers and destinations are.
func (s *nodeServer) Peers(ctx context.Context, in *keregev1.PeersRequest) (*keregev1.PeersResponse, error) {
	if _, _, err := callingNode(ctx, s.admit); err != nil {
		return nil, err
	}
	if len(in.GetAddresses()) > maxPeers {
		return nil, status.Errorf(codes.InvalidArgument, "at most %d addresses at once, not %d", maxPeers, len(in.GetAddresses()))
	}
	snap, nodes := s.mesh()
	return peersOf(snap, nodes, in.GetAddresses()), nil
}

// peersOf says what is known of addresses. It looks at every instance once: it is
// asked by people, not by machines.
func peersOf(snap *mesh.Snapshot, nodes []api.Node, addresses []string) *keregev1.PeersResponse {
	hosts, services := map[netip.Addr]*keregev1.Peer{}, map[netip.AddrPort]string{}
	host := func(addr netip.Addr, node string, in bool) {
		p := hosts[addr]
		if p == nil {
			p = &keregev1.Peer{}
			hosts[addr] = p
		}
		if p.Node == "" {
			p.Node = node
		}
		p.InMesh = p.InMesh || in
	}
	for _, n := range nodes {
		for _, text := range n.Addresses {
			if addr, err := netip.ParseAddr(text); err == nil {
				host(addr.Unmap(), n.Name, len(n.Services) > 0)
			}
		}
	}
	for _, name := range snap.Services() {
		svc := snap.Service(name)
		for _, in := range snap.Instances(name) {
			if in.Barred != "" {
				continue // its address is no word about its host
			}
			host(in.Addr.Addr().Unmap(), in.Node, in.In)
			services[unmapped(in.Addr)] = string(name)
			if svc == nil || len(svc.Ports) < 2 {
				continue
			}
			for _, declared := range svc.Ports {
				if at, ok := svc.EndpointPort(in, declared); ok {
					services[unmapped(at)] = string(name)
				}
			}
		}
	}
	out := &keregev1.PeersResponse{Outbound: string(snap.Config().Outbound)}
	for _, text := range addresses {
		p := &keregev1.Peer{Address: text}
		addr, err := netip.ParseAddr(text)
		if at, e := netip.ParseAddrPort(text); e == nil {
			addr, err, p.Service = at.Addr(), nil, services[unmapped(at)]
		}
		if err != nil {
			continue
		}
		if h := hosts[addr.Unmap()]; h != nil {
			p.Node, p.InMesh = h.Node, h.InMesh
		}
		if p.Node != "" || p.InMesh || p.Service != "" {
			out.Peers = append(out.Peers, p)
		}
	}
	return out
}

func unmapped(at netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
}
