package server

import (
	"bytes"
	"slices"
	"strings"
	"sync"

	"google.golang.org/protobuf/proto"

	keregev1 "github.com/kerege/kerege/api/kerege/v1"
	"github.com/kerege/kerege/mesh"
)

// viewTable is what every node should know, kept in step with the mesh: a
// change costs what it changes, and what did not change keeps its slice.
type viewTable struct {
	servers []string

	mu        sync.Mutex
	snap      *mesh.Snapshot
	changed   chan struct{} // closed when something a node may know changed
	names     []*keregev1.Name
	viaConsul map[mesh.ServiceName]bool
	placement map[string][]*keregev1.Placement // by node that asked
	wants     func([]*mesh.Instance)           // hears what is placed on a node that asked; nil: nobody wants to
}

func newViewTable(servers []string) *viewTable {
	return &viewTable{servers: servers, snap: &mesh.Snapshot{}, changed: make(chan struct{}),
		viaConsul: map[mesh.ServiceName]bool{}, placement: map[string][]*keregev1.Placement{}}
}

// View is what a node should know now.
func (t *viewTable) View(node string) (nodeView, <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	list, known := t.placement[node]
	if !known {
		list = t.placementOf(t.snap, node)
		t.placement[node] = list
	}
	return nodeView{placement: list, names: t.names, bundle: t.snap.Bundle(), servers: t.servers}, t.changed
}

// update goes over to a snapshot; keys are all that differ in it.
func (t *viewTable) update(snap *mesh.Snapshot, keys []mesh.Key) {
	t.mu.Lock()
	defer t.mu.Unlock()
	told, renamed := false, false
	nodes := map[string]bool{} // whose placement may be another
	if !bytes.Equal(snap.Bundle(), t.snap.Bundle()) {
		told = true
	}
	t.snap = snap
	for _, k := range keys {
		switch k.Kind {
		case mesh.KindNode:
			nodes[k.Name] = true
		case mesh.KindServices, mesh.KindService:
			renamed = true
			for _, in := range snap.Instances(mesh.ServiceName(k.Name)) {
				nodes[in.Node] = true // declared ports and mtls are part of it
			}
		case mesh.KindInstances:
			name := mesh.ServiceName(k.Name)
			if now := viaConsul(snap, name); now != t.viaConsul[name] {
				t.viaConsul[name], renamed = now, true
			}
		}
	}
	if renamed {
		if names := t.namesOf(snap); !sameNames(names, t.names) {
			t.names, told = names, true
		}
	}
	for node := range nodes {
		old, asked := t.placement[node]
		if !asked {
			continue
		}
		if list := t.placementOf(snap, node); !slices.EqualFunc(list, old, func(a, b *keregev1.Placement) bool { return proto.Equal(a, b) }) {
			t.placement[node], told = list, true
		}
	}
	if told {
		close(t.changed)
		t.changed = make(chan struct{})
	}
}

func (t *viewTable) placementOf(snap *mesh.Snapshot, node string) []*keregev1.Placement {
	if t.wants != nil {
		t.wants(snap.Node(node))
	}
	return placementOf(snap, node)
}

// viaConsul says whether callers that know a service by its Consul name are
// given its virtual address: it is registered there, and in the mesh.
func viaConsul(snap *mesh.Snapshot, name mesh.ServiceName) bool {
	return slices.ContainsFunc(snap.Instances(name), func(in *mesh.Instance) bool { return in.In && in.Source == "consul" })
}

func (t *viewTable) namesOf(snap *mesh.Snapshot) []*keregev1.Name {
	list := make([]*keregev1.Name, 0, len(snap.Services()))
	for _, name := range snap.Services() {
		svc := snap.Service(name)
		if svc == nil || !svc.VIP4.IsValid() {
			continue // it gets one in the next snapshot
		}
		list = append(list, &keregev1.Name{Service: string(name), V4: svc.VIP4.String(), V6: svc.VIP6.String(), Consul: t.viaConsul[name]})
	}
	return list
}

// strictest is what the port of a service accepts that accepts least.
func strictest(svc *mesh.Service) mesh.MTLS {
	out := svc.MTLS
	for i, p := range svc.Ports {
		if i == 0 || p.MTLS == mesh.MTLSStrict || p.MTLS == mesh.MTLSPermissive && out != mesh.MTLSStrict {
			out = p.MTLS
		}
	}
	return out
}

// placementOf is what the registries place on a node, an entry a service and workload.
func placementOf(snap *mesh.Snapshot, node string) []*keregev1.Placement {
	byName := map[string]*keregev1.Placement{}
	for _, in := range snap.Node(node) {
		name := memberName(string(in.Service), in.Workload)
		p := byName[name]
		if p == nil {
			p = &keregev1.Placement{Service: string(in.Service), Workload: in.Workload, Source: in.Source, Inside: in.Workload != ""}
			byName[name] = p
			if svc := snap.Service(in.Service); svc != nil {
				p.Mtls = string(strictest(svc))
			}
		}
		p.Inside = p.Inside && in.Allocation.Inside()
		if port := uint32(in.Application(in.Addr)); !slices.Contains(p.Ports, port) {
			p.Ports = append(p.Ports, port)
		}
		if svc := snap.Service(in.Service); svc != nil && len(svc.Ports) > 1 {
			for _, declared := range svc.Ports {
				if ap, ok := svc.EndpointPort(in, declared); ok && !slices.Contains(p.Ports, uint32(in.Application(ap))) {
					p.Ports = append(p.Ports, uint32(in.Application(ap)))
				}
			}
		}
		if addr := in.Addr.Addr().String(); !slices.Contains(p.Addresses, addr) {
			p.Addresses = append(p.Addresses, addr)
		}
	}
	list := make([]*keregev1.Placement, 0, len(byName))
	for _, p := range byName {
		slices.Sort(p.Ports)
		slices.Sort(p.Addresses)
		list = append(list, p)
	}
	slices.SortFunc(list, func(a, b *keregev1.Placement) int {
		return strings.Compare(memberName(a.Service, a.Workload), memberName(b.Service, b.Workload))
	})
	return list
}
