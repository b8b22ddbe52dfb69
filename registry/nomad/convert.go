package nomad

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/hashicorp/nomad/api"

	"github.com/kerege/kerege/mesh"
)

// convert makes the instances of one service's registrations. An allocation that
// registers the service on several ports gives each its port's label; with one
// there is no name, so that it is the same port as a half kept elsewhere.
func convert(regs []*api.ServiceRegistration, allocs map[string]*alloc, nodes map[string]*node) []mesh.Instance {
	ports := map[string]int{}
	for _, r := range regs {
		ports[r.AllocID]++
	}
	var list []mesh.Instance
	for _, r := range regs {
		in := mesh.Instance{
			Service: mesh.ServiceName(r.ServiceName), ID: r.ID, Source: "nomad", Registered: r.ServiceName,
			Datacenter: r.Datacenter, Namespace: r.Namespace, Node: r.NodeID, Workload: r.AllocID, Job: r.JobID,
			Addr: addr(r.Address, r.Port), Tags: slices.Sorted(slices.Values(r.Tags)), Weight: 1,
			Locality: mesh.Locality{Region: r.Datacenter},
		}
		if n := nodes[r.NodeID]; n != nil {
			in.Node, in.NodeMeta = cmp.Or(n.Name, r.NodeID), maps.Clone(n.Meta)
		}
		if a := allocs[r.AllocID]; a != nil {
			in.Node = cmp.Or(a.NodeName, in.Node)
			in.Meta, in.Health = a.meta(r.ServiceName), a.healthOf(r.ServiceName)
		}
		if ports[r.AllocID] > 1 {
			in.PortName = portLabel(r, allocs[r.AllocID])
		}
		in.Protocol = protocol(&in)
		list = append(list, in)
	}
	return list
}

func sortInstances(list []mesh.Instance) {
	slices.SortFunc(list, func(a, b mesh.Instance) int {
		return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Node, b.Node), cmp.Compare(a.ID, b.ID))
	})
}

// addr is the zero AddrPort for a host name, which Merge refuses with a reason:
// an endpoint's address is dialled as it is, nobody looks a name up.
func addr(host string, port int) netip.AddrPort {
	ip, err := netip.ParseAddr(host)
	if err != nil || port < 0 || port > 65535 {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(port))
}

// portLabel is the end of a registration's ID,
// _nomad-task-ALLOC-GROUP_OR_TASK-SERVICE-LABEL.
func portLabel(r *api.ServiceRegistration, a *alloc) string {
	_, rest, ok := strings.Cut(r.ID, r.AllocID)
	if a != nil {
		if label, ok := strings.CutPrefix(rest, "-group-"+a.TaskGroup+"-"+r.ServiceName+"-"); ok {
			return label
		}
	}
	i := strings.LastIndex(rest, "-"+r.ServiceName+"-")
	if !ok || i < 0 {
		return ""
	}
	return rest[i+len(r.ServiceName)+2:]
}

// protocol reads kerege-protocol in the metadata, else a tag kerege-protocol=….
func protocol(in *mesh.Instance) mesh.Protocol {
	word := in.Meta["kerege-protocol"]
	for _, t := range in.Tags {
		if v, ok := strings.CutPrefix(t, "kerege-protocol="); ok && word == "" {
			word = v
		}
	}
	switch p := mesh.Protocol(word); p {
	case mesh.ProtocolTCP, mesh.ProtocolTLS, mesh.ProtocolHTTP, mesh.ProtocolHTTP2, mesh.ProtocolGRPC:
		return p
	}
	return mesh.ProtocolUnknown
}
