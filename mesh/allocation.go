package mesh

import (
	"cmp"
	"net/netip"
	"slices"
)

// Allocation is a durable fact that Nomad alone knows of one that registers a
// service, wherever it registers it: what its ports are inside, and who checks it
// from outside. Whom it speaks of is the registry's word; what it says is Nomad's.
type Allocation struct {
	Service  string // the name it is registered under
	Workload string
	Addrs    []netip.Addr // its own, in its network namespace
	Ports    []PortMap    // sorted by Host; what the host's port is inside
	Probes   []Probe      // sorted: what is asked of the service from outside
}

// PortMap is a port of the host whose connections Nomad leads into an allocation.
type PortMap struct {
	Host, App uint16
}

// Probe is an HTTP or gRPC check of a service that the registry's agent makes from
// the allocation's host. A TCP check needs none: it only connects.
type Probe struct {
	Port   uint16     // inside the allocation
	Method string     // "GET" (which lets HEAD in, too), "POST", …
	Path   string     // as it is asked, its query included
	From   netip.Addr // the host's address that it comes from; invalid: the one that the host has on the allocation's own network
}

// Inside says whether the allocation has a network namespace of its own.
func (a *Allocation) Inside() bool { return a != nil && len(a.Addrs)+len(a.Ports) > 0 }

// Compare orders probes by port, address, path and method.
func (p Probe) Compare(o Probe) int {
	return cmp.Or(cmp.Compare(p.Port, o.Port), p.From.Compare(o.From), cmp.Compare(p.Path, o.Path), cmp.Compare(p.Method, o.Method))
}

// Application is the port at which an instance's application listens for what
// callers send to at: another one only where Nomad maps ports.
func (in *Instance) Application(at netip.AddrPort) uint16 {
	if in.Allocation == nil || slices.Contains(in.Allocation.Addrs, at.Addr()) {
		return at.Port()
	}
	for _, m := range in.Allocation.Ports {
		if m.Host == at.Port() {
			return m.App
		}
	}
	return at.Port()
}

// allocated gives the instances of a registry's name what Nomad says of them.
func allocated(list []*Instance, refs []slotRef) []*Instance {
	for _, r := range refs {
		if len(r.slot.allocations) == 0 {
			continue
		}
		for i, in := range list {
			if a := r.slot.allocations[in.Workload]; a != nil && in.Workload != "" && in.Allocation == nil {
				c := *in
				c.Allocation = a
				list[i] = &c
			}
		}
	}
	return list
}

func newAllocation(a Allocation) *Allocation {
	a.Addrs, a.Ports, a.Probes = slices.Clone(a.Addrs), slices.Clone(a.Ports), slices.Clone(a.Probes)
	slices.SortFunc(a.Addrs, netip.Addr.Compare)
	slices.SortFunc(a.Ports, func(x, y PortMap) int { return cmp.Or(cmp.Compare(x.Host, y.Host), cmp.Compare(x.App, y.App)) })
	slices.SortFunc(a.Probes, Probe.Compare)
	a.Probes = slices.Compact(a.Probes)
	return &a
}

func equalAllocation(a, b *Allocation) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a == b || a.Service == b.Service && a.Workload == b.Workload && slices.Equal(a.Addrs, b.Addrs) &&
		slices.Equal(a.Ports, b.Ports) && slices.Equal(a.Probes, b.Probes)
}
