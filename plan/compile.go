package plan

import (
	"cmp"
	"maps"
	"slices"

	"github.com/kerege/kerege/mesh"
)

// Compile decides, from nothing, what one proxy must do. The problems are those
// of all that the plan is made of, sorted.
func Compile(v *View, n Node) (*Proxy, []Problem) {
	f := newFresh(v)
	p := compileProxy(v, f, n)
	return p, sortProblems(f.problems)
}

// fresh makes each unit once, for one plan.
type fresh struct {
	v        *View
	cl       map[mesh.ServiceName][]*Cluster
	up       map[[2]mesh.ServiceName]upstreamUnit
	po       map[mesh.ServiceName][]*Policy
	problems []Problem
}

func newFresh(v *View) *fresh {
	return &fresh{v: v, cl: map[mesh.ServiceName][]*Cluster{}, up: map[[2]mesh.ServiceName]upstreamUnit{}, po: map[mesh.ServiceName][]*Policy{}}
}

func (f *fresh) clusters(name mesh.ServiceName) []*Cluster {
	c, ok := f.cl[name]
	if !ok {
		var problems []Problem
		c, problems = compileClusters(f.v, name)
		f.cl[name] = c
		f.problems = append(f.problems, problems...)
	}
	return c
}

func (f *fresh) upstream(name, caller mesh.ServiceName) upstreamUnit {
	key := [2]mesh.ServiceName{name, caller}
	u, ok := f.up[key]
	if !ok {
		var problems []Problem
		u, problems = compileUpstream(f.v, f, name, caller)
		f.up[key] = u
		f.problems = append(f.problems, problems...)
	}
	return u
}

func (f *fresh) policies(name mesh.ServiceName) []*Policy {
	p, ok := f.po[name]
	if !ok {
		var problems []Problem
		p, problems = compilePolicies(f.v, name)
		f.po[name] = p
		f.problems = append(f.problems, problems...)
	}
	return p
}

func sortProblems(list []Problem) []Problem {
	slices.SortFunc(list, func(a, b Problem) int {
		return cmp.Or(a.Where.Compare(b.Where), cmp.Compare(a.Pos.File, b.Pos.File), cmp.Compare(a.Pos.Line, b.Pos.Line),
			cmp.Compare(a.Pos.Column, b.Pos.Column), cmp.Compare(a.What, b.What))
	})
	return slices.Compact(list)
}

// compileProxy puts one proxy's plan together from the shared units.
func compileProxy(v *View, u units, n Node) *Proxy {
	cfg := v.Config()
	p := &Proxy{
		Node:     n,
		Identity: mesh.ServiceIdentity(cfg.TrustDomain, n.ID.Service),
		Outside:  Outside{Mode: cfg.Outbound, Caller: n.ID.Service},
		Inbound:  compileInbound(v, u, n),
	}
	p.Checks = checks(v, p)
	for _, name := range visible(v, n) {
		unit := u.upstream(name, "")
		if slices.Contains(unit.from, string(n.ID.Service)) {
			unit = u.upstream(name, n.ID.Service)
		}
		if unit.up != nil {
			p.Outbound = append(p.Outbound, unit.up)
		}
	}
	return p
}

// visible lists the services that a proxy is told of, sorted: those it lists
// itself; else all, when the mesh allows by default; else those whose
// intentions name it and those that admit everybody.
func visible(v *View, n Node) []mesh.ServiceName {
	var list []mesh.ServiceName
	switch {
	case len(n.Explicit) > 0:
		for _, e := range n.Explicit {
			list = append(list, e.Service)
		}
	case v.Config().DefaultIntention == mesh.ActionAllow:
		return v.Services()
	default:
		list = slices.Concat(v.Destinations(n.ID.Service), v.Open())
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// compileInbound lists the ports of the application: for each port of the
// service where its instances on this node answer for it, and the port's own
// number where none does: it may open before a registry says so.
func compileInbound(v *View, u units, n Node) []*Inbound {
	svc := v.Service(n.ID.Service)
	if svc == nil {
		return nil
	}
	policies := u.policies(svc.Name)
	instances := v.Instances(svc.Name)
	byNumber := map[uint16]*Inbound{}
	add := func(number uint16, i int) {
		port := svc.Ports[i]
		if number == 0 || byNumber[number] != nil {
			return
		}
		byNumber[number] = &Inbound{
			Service: svc.Name, Number: number, Port: port.Number, Name: port.Name, Protocol: port.Protocol, MTLS: port.MTLS,
			Policy: policies[i], Cause: mesh.Key{Kind: mesh.KindService, Name: string(svc.Name)},
		}
	}
	for _, exact := range []bool{true, false} {
		for i, port := range svc.Ports {
			for _, in := range instances {
				if in.Barred != "" || in.Node != n.ID.Node || in.Workload != n.ID.Workload {
					continue
				}
				addr, ok := svc.EndpointPort(in, port)
				if ok && exact == (addr == in.Addr) {
					add(in.Application(addr), i)
				}
			}
		}
	}
	for i, port := range svc.Ports {
		if !slices.ContainsFunc(slices.Collect(maps.Values(byNumber)), func(in *Inbound) bool { return in.Port == port.Number }) {
			add(port.Number, i)
		}
	}
	return slices.SortedFunc(maps.Values(byNumber), func(a, b *Inbound) int { return cmp.Compare(a.Number, b.Number) })
}
