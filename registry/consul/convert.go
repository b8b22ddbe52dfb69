package consul

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"github.com/hashicorp/consul/api"

	"github.com/kerege/kerege/mesh"
)

// convert makes the instances of an answer, sorted. Connect's proxies and
// gateways are not instances of a service, and Nomad's own agents, like Consul's
// servers, are no service of ours.
func convert(name, datacenter string, entries []*api.ServiceEntry) []mesh.Instance {
	var list []mesh.Instance
	for _, e := range entries {
		if e == nil || e.Service == nil || e.Node == nil || e.Service.Kind != api.ServiceKindTypical || ofNomad(e.Service.ID) {
			continue
		}
		list = append(list, instancesOf(name, datacenter, e)...)
	}
	slices.SortFunc(list, func(a, b mesh.Instance) int {
		return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Node, b.Node), cmp.Compare(a.ID, b.ID))
	})
	return list
}

// instancesOf is one instance for each port of a registration.
func instancesOf(name, datacenter string, e *api.ServiceEntry) []mesh.Instance {
	svc := e.Service
	in := mesh.Instance{
		Service: mesh.ServiceName(name), ID: svc.ID, Source: "consul", Registered: svc.Service,
		Datacenter: cmp.Or(e.Node.Datacenter, svc.Datacenter, datacenter), Namespace: svc.Namespace,
		Node: e.Node.Node, Workload: allocation(svc.ID), Addr: addr(cmp.Or(svc.Address, e.Node.Address), svc.Port),
		Protocol: protocol(svc), Tags: slices.Sorted(slices.Values(svc.Tags)),
		Meta: maps.Clone(svc.Meta), NodeMeta: maps.Clone(e.Node.Meta), Tagged: tagged(e),
	}
	in.Health = health(e.Checks)
	in.Weight = 1
	if w := svc.Weights.Passing; in.Health != mesh.Warning && w > 0 {
		in.Weight = uint32(w)
	}
	if w := svc.Weights.Warning; in.Health == mesh.Warning && w > 0 {
		in.Weight = uint32(w)
	} else if in.Health == mesh.Warning && svc.Weights.Passing > 0 && w == 0 {
		in.Health = mesh.Draining // a weight of nothing: no new call
	}
	in.Locality = mesh.Locality{Region: in.Datacenter}
	for _, l := range []*api.Locality{e.Node.Locality, svc.Locality} {
		if l != nil && l.Region != "" {
			in.Locality = mesh.Locality{Region: l.Region, Zone: l.Zone}
		}
	}
	if len(svc.Ports) == 0 {
		return []mesh.Instance{in}
	}
	var list []mesh.Instance
	for _, p := range svc.Ports {
		one := in
		one.PortName, one.Addr = p.Name, addr(cmp.Or(svc.Address, e.Node.Address), p.Port)
		if !p.Default {
			one.ID = in.ID + ":" + p.Name
		}
		list = append(list, one)
	}
	return list
}

// ofNomad tells whether an agent of Nomad registered itself: by the ID it chooses,
// since a team may call a service nomad, too. Who else writes such an ID
// keeps out of the mesh what is registered by it, and nothing more.
func ofNomad(id string) bool {
	return strings.HasPrefix(id, "_nomad-server-") || strings.HasPrefix(id, "_nomad-client-")
}

// allocation is the allocation whose service Nomad registered, from the form of
// the ID: _nomad-task-ALLOC-…; else "". It is a claim: who may write to Consul
// can write it, and the server holds it against Nomad before it signs.
func allocation(id string) string {
	const length = 36 // of a UUID
	rest, ours := strings.CutPrefix(id, "_nomad-task-")
	if !ours || len(rest) <= length || rest[length] != '-' {
		return ""
	}
	for i, c := range []byte(rest[:length]) {
		dash := i == 8 || i == 13 || i == 18 || i == 23
		if dash != (c == '-') || !dash && !strings.ContainsRune("0123456789abcdef", rune(c)) {
			return ""
		}
	}
	return rest[:length]
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

// health is the worst of the node's and the service's checks; maintenance is a
// critical check of a reserved name.
func health(checks api.HealthChecks) mesh.Health {
	h := mesh.Healthy
	for _, c := range checks {
		if c == nil {
			continue
		}
		switch c.Status {
		case api.HealthPassing:
		case api.HealthWarning:
			h = max(h, mesh.Warning)
		default: // critical, maintenance, and words of a later Consul
			h = mesh.Unhealthy
		}
	}
	return h
}

// protocol reads kerege-protocol in the metadata, else a tag kerege-protocol=….
func protocol(svc *api.AgentService) mesh.Protocol {
	word := svc.Meta["kerege-protocol"]
	for _, t := range svc.Tags {
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

// tagged are the service's tagged addresses, and the node's with the service's port.
func tagged(e *api.ServiceEntry) map[string]netip.AddrPort {
	out := map[string]netip.AddrPort{}
	for name, host := range e.Node.TaggedAddresses {
		if a := addr(host, e.Service.Port); a.IsValid() {
			out[name] = a
		}
	}
	for name, t := range e.Service.TaggedAddresses {
		if a := addr(t.Address, t.Port); a.IsValid() {
			out[name] = a
		}
	}
	if len(out) == 0 {
		return nil
	}
	return out
}
