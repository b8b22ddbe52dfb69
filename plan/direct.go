package plan

import (
	"net/netip"
	"slices"

	"github.com/kerege/kerege/mesh"
)

// Direct is an instance that callers may dial at its own address. An instance
// that is not In is reached in plaintext, or not at all.
type Direct struct {
	Addr netip.AddrPort
	In   bool // by mTLS
	Held bool // no caller is given it, as HeldOf says: refused
}

// directs lists, for each port of a service, its instances' own addresses. An
// address is one port's only: of the port that the instance is registered with,
// before one that it answers for besides.
func directs(svc *mesh.Service, instances []*mesh.Instance) [][]Direct {
	out := make([][]Direct, len(svc.Ports))
	seen := map[netip.AddrPort]bool{}
	for _, exact := range []bool{true, false} {
		for i, port := range svc.Ports {
			for _, in := range instances {
				addr, ok := svc.EndpointPort(in, port)
				// A connection to loopback never comes to a proxy, and a virtual address is a listener's of its own.
				if !ok || exact != (addr == in.Addr) || seen[addr] || !mesh.Callable(addr.Addr()) {
					continue
				}
				seen[addr] = true
				out[i] = append(out[i], Direct{
					Addr: addr, In: in.In && port.MTLS != mesh.MTLSDisabled,
					Held: in.Barred != "" || !in.In && port.MTLS == mesh.MTLSStrict,
				})
			}
		}
	}
	for _, list := range out {
		slices.SortFunc(list, func(a, b Direct) int { return a.Addr.Compare(b.Addr) })
	}
	return out
}
