package plan

import (
	"cmp"
	"net/netip"
	"slices"
	"strconv"

	"github.com/kerege/kerege/mesh"
)

// compileClusters makes every cluster of a service: for each of its ports one
// of all instances and one of each subset, sorted by name.
func compileClusters(v *View, name mesh.ServiceName) ([]*Cluster, []Problem) {
	svc := v.Service(name)
	if svc == nil {
		return nil, nil
	}
	cfg := v.Config()
	instances := v.Instances(name)
	var list []*Cluster
	var problems []Problem
	for _, port := range svc.Ports {
		list = append(list, compileCluster(svc, port, nil, cfg, instances))
		for i := range svc.Subsets {
			list = append(list, compileCluster(svc, port, &svc.Subsets[i], cfg, instances))
		}
	}
	for i := range svc.Subsets {
		if len(instances) > 0 && !slices.ContainsFunc(instances, func(in *mesh.Instance) bool { return member(&svc.Subsets[i], in) }) {
			problems = append(problems, Problem{
				Where: mesh.Key{Kind: mesh.KindService, Name: string(name)}, Pos: svc.Subsets[i].Pos,
				What: "The subset " + string(name) + "." + svc.Subsets[i].Name + " matches none of the " +
					strconv.Itoa(len(instances)) + " instances of " + string(name) + ".",
			})
		}
	}
	slices.SortStableFunc(list, func(a, b *Cluster) int { return cmp.Compare(a.Name, b.Name) })
	return slices.CompactFunc(list, func(a, b *Cluster) bool { return a.Name == b.Name }), problems
}

func compileCluster(svc *mesh.Service, port mesh.Port, subset *mesh.Subset, cfg mesh.Config, instances []*mesh.Instance) *Cluster {
	c := &Cluster{
		Service: svc.Name, Port: port.Number, Protocol: port.Protocol,
		Identity: mesh.ServiceIdentity(cfg.TrustDomain, svc.Name), MTLS: port.MTLS,
		Balance: *svc.Balance, Limits: *svc.Limits, Outlier: *svc.Outlier, Budget: *svc.Retry.Budget,
		Connect: mesh.DefaultConnect, Idle: *svc.IdleTimeout,
		Cause: mesh.Key{Kind: mesh.KindService, Name: string(svc.Name)},
	}
	if subset != nil {
		c.Subset = subset.Name
	}
	c.Name = clusterName(svc.Name, c.Subset, port.Number)
	c.Endpoints = compileEndpoints(svc, port, subset, instances)
	c.Endpoints.Cluster = c.Name
	return c
}

func clusterName(svc mesh.ServiceName, subset string, port uint16) string {
	name := string(svc)
	if subset != "" {
		name += "." + subset
	}
	return name + ":" + strconv.Itoa(int(port))
}

// member says whether an instance belongs to a subset. A filter that nobody
// compiled matches nothing.
func member(s *mesh.Subset, in *mesh.Instance) bool { return s.Match != nil && s.Match.Match(in) }

func compileEndpoints(svc *mesh.Service, port mesh.Port, subset *mesh.Subset, instances []*mesh.Instance) *Endpoints {
	e := &Endpoints{Cause: mesh.Key{Kind: mesh.KindInstances, Name: string(svc.Name)}}
	byLocality := map[mesh.Locality][]Endpoint{}
	seen := map[netip.AddrPort]bool{}
	// Those registered at the very address come first: one that merely shares the
	// host with them must not stand in for them.
	for _, exact := range []bool{true, false} {
		for _, in := range instances {
			addr, ok := svc.EndpointPort(in, port)
			if in.Barred != "" || !ok || exact != (addr == in.Addr) || seen[addr] || subset != nil && !member(subset, in) ||
				port.MTLS == mesh.MTLSStrict && !in.In {
				continue
			}
			seen[addr] = true
			byLocality[in.Locality] = append(byLocality[in.Locality], Endpoint{
				Addr: addr, Weight: in.Weight, Health: in.Health, In: in.In && port.MTLS != mesh.MTLSDisabled,
			})
		}
	}
	for l, list := range byLocality {
		slices.SortFunc(list, func(a, b Endpoint) int { return a.Addr.Compare(b.Addr) })
		e.Groups = append(e.Groups, Group{Locality: l, Endpoints: list})
	}
	slices.SortFunc(e.Groups, func(a, b Group) int {
		x, y := a.Locality, b.Locality
		return cmp.Or(cmp.Compare(x.Region, y.Region), cmp.Compare(x.Zone, y.Zone), cmp.Compare(x.SubZone, y.SubZone))
	})
	return e
}

// Held is an instance that is registered but not given to callers.
type Held struct {
	Instance *mesh.Instance
	Reason   string // one sentence's end, after the instance's name: "is not ..."
}

// HeldOf lists the instances of a service that its callers do not get: what is
// barred, and at a strict port those of which nobody has said that they are in
// the mesh.
func HeldOf(snap *mesh.Snapshot, name mesh.ServiceName) []Held {
	svc := snap.Service(name)
	if svc == nil {
		return nil
	}
	strict := slices.ContainsFunc(svc.Ports, func(p mesh.Port) bool { return p.MTLS == mesh.MTLSStrict })
	var list []Held
	for _, in := range snap.Instances(name) {
		switch {
		case in.Barred != "":
			list = append(list, Held{in, in.Barred})
		case in.In || !strict:
		case in.Node == "":
			list = append(list, Held{in, "is on no named node, so no agent can say that it is in the mesh; mtls is strict"})
		default:
			list = append(list, Held{in, "is not in the mesh: the agent of " + in.Node + " has not said that it is captured and has its identity; mtls is strict"})
		}
	}
	return list
}
