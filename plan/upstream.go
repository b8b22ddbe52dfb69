package plan

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"github.com/kerege/kerege/mesh"
)

// units gives what plans share. Compile makes it afresh; Compiler keeps it.
type units interface {
	clusters(mesh.ServiceName) []*Cluster
	upstream(svc, caller mesh.ServiceName) upstreamUnit
	policies(mesh.ServiceName) []*Policy
}

// upstreamUnit is an upstream and the callers that have one of their own.
type upstreamUnit struct {
	up   *Upstream // nil: no such service
	from []string  // callers that the route names, sorted
}

// compileUpstream makes the upstream of a service for one caller that its route
// names, or ("") for all others.
func compileUpstream(v *View, u units, name, caller mesh.ServiceName) (upstreamUnit, []Problem) {
	svc := v.Service(name)
	if svc == nil {
		return upstreamUnit{}, nil
	}
	r := &router{v: v, units: u, svc: svc, route: v.Route(name), caller: caller}
	out := &Upstream{Service: name, Cause: mesh.Key{Kind: mesh.KindService, Name: string(name)}}
	var direct [][]Direct
	if svc.DialedDirectly != nil && *svc.DialedDirectly {
		direct = directs(svc, v.Instances(name))
	}
	for i, port := range svc.Ports {
		p := UpstreamPort{Number: port.Number, Name: port.Name, Protocol: port.Protocol, Idle: *svc.IdleTimeout}
		for _, a := range []netip.Addr{svc.VIP4, svc.VIP6} {
			if a.IsValid() {
				p.Virtual = append(p.Virtual, a)
			}
		}
		if isHTTP(port.Protocol) || port.Protocol == mesh.ProtocolUnknown {
			p.Route = r.http(port)
		}
		if !isHTTP(port.Protocol) {
			p.TCP = r.tcp(port)
		}
		p.Clusters = r.clusters(port)
		if direct != nil {
			p.Direct = direct[i]
		}
		out.Ports = append(out.Ports, p)
	}
	r.check()
	return upstreamUnit{out, namedCallers(r.rules())}, r.problems
}

// clusters lists all that the port's rules may name, now or when a subset fills.
func (r *router) clusters(port mesh.Port) []*Cluster {
	set := map[string]*Cluster{}
	add := func(svc *mesh.Service, port mesh.Port) {
		for _, c := range r.units.clusters(svc.Name) {
			if c.Port == port.Number {
				set[c.Name] = c
			}
		}
	}
	add(r.svc, port)
	for i := range r.rules() {
		rule := &r.route.Rules[i]
		if rule.Port != "" && rule.Port != port.Name {
			continue
		}
		if _, ok := r.matches(rule); !ok {
			continue
		}
		for _, t := range rule.To {
			if svc := r.v.Service(t.Service); svc != nil && svc.Name != r.svc.Name {
				add(svc, portLike(svc, port))
			}
		}
	}
	return slices.SortedFunc(maps.Values(set), func(a, b *Cluster) int { return cmp.Compare(a.Name, b.Name) })
}

// namedCallers lists the callers that the rules of a route name.
func namedCallers(rules []mesh.Rule) []string {
	var list []string
	for _, r := range rules {
		for _, m := range r.Matches {
			list = append(list, m.From...)
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}
