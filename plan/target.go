package plan

import (
	"cmp"
	"slices"
	"strconv"

	"github.com/kerege/kerege/mesh"
)

const whole = 10000 // hundredths of a percent

// targets resolves where a rule sends calls to a port: weights that add up to
// the whole, the share of what is not there or empty given to the others. nil
// means that no target exists.
func (r *router) targets(rule *mesh.Rule, port mesh.Port) []Weighted {
	if len(rule.To) == 0 {
		return []Weighted{{clusterName(r.svc.Name, "", port.Number), whole}}
	}
	weights := shares(rule.To)
	var list []Weighted
	var keep []bool // false: gives its share to the others
	for i, t := range rule.To {
		c := r.target(rule, t, port)
		if c == nil {
			continue
		}
		list = append(list, Weighted{c.Name, weights[i]})
		keep = append(keep, len(c.Endpoints.Groups) > 0 || t.IfEmpty == "fail")
	}
	if len(list) == 0 {
		return nil
	}
	if slices.Contains(keep, true) {
		for i := range list {
			if !keep[i] {
				list[i].Weight = 0
			}
		}
		fillUp(list, keep)
	} else {
		fillUp(list, nil)
	}
	list = slices.DeleteFunc(list, func(w Weighted) bool { return w.Weight == 0 })
	slices.SortStableFunc(list, func(a, b Weighted) int { return cmp.Compare(a.Cluster, b.Cluster) })
	return merged(list)
}

// shares fills in the weight that a target leaves out: the rest.
func shares(to []mesh.Target) []uint32 {
	out := make([]uint32, len(to))
	sum, open := uint32(0), 0
	for i, t := range to {
		if t.Weight == nil {
			open++
			continue
		}
		out[i] = min(*t.Weight, whole)
		sum += out[i]
	}
	rest := whole - min(sum, whole)
	for i, t := range to {
		if t.Weight == nil {
			out[i] = rest / uint32(open)
			rest -= out[i]
			open--
		}
	}
	return out
}

// fillUp scales weights so that they add up to the whole. Where all are zero,
// those in keep (all, if it is nil) share alike. What rounding leaves over goes
// to the first of the largest remainders.
func fillUp(list []Weighted, keep []bool) {
	sum := uint64(0)
	for _, w := range list {
		sum += uint64(w.Weight)
	}
	if sum == whole {
		return
	}
	if sum == 0 {
		for i := range list {
			if keep == nil || keep[i] {
				list[i].Weight = 1
				sum++
			}
		}
	}
	left := uint64(whole)
	rests := make([]uint64, len(list))
	order := make([]int, len(list))
	for i, w := range list {
		share := uint64(w.Weight) * whole
		list[i].Weight, rests[i], order[i] = uint32(share/sum), share%sum, i
		left -= share / sum
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(rests[b], rests[a]) })
	for _, i := range order[:left] {
		list[i].Weight++
	}
}

// merged adds up targets that are the same cluster.
func merged(list []Weighted) []Weighted {
	out := list[:0]
	for _, w := range list {
		if n := len(out); n > 0 && out[n-1].Cluster == w.Cluster {
			out[n-1].Weight += w.Weight
		} else {
			out = append(out, w)
		}
	}
	return out
}

// target finds a target's cluster: nil, with a problem, when there is none.
func (r *router) target(rule *mesh.Rule, t mesh.Target, port mesh.Port) *Cluster {
	where := "The rule " + strconv.Quote(rule.Name) + " of the route " + string(r.svc.Name)
	pos := t.Pos
	if pos == (mesh.Pos{}) {
		pos = rule.Pos
	}
	svc := r.svc
	if t.Service != r.svc.Name {
		svc = r.v.Service(t.Service)
	}
	if svc == nil {
		r.problem(pos, where+" goes to "+string(t.Service)+", which is no service.")
		return nil
	}
	p := portLike(svc, port)
	name := clusterName(svc.Name, t.Subset, p.Number)
	clusters := r.units.clusters(svc.Name)
	i := slices.IndexFunc(clusters, func(c *Cluster) bool { return c.Name == name })
	if i < 0 {
		r.problem(pos, where+" goes to "+string(t.Service)+"."+t.Subset+", and "+string(t.Service)+" has no subset "+strconv.Quote(t.Subset)+".")
		return nil
	}
	return clusters[i]
}

// portLike is the port of another service that stands for a port of this one:
// of the same name, else of the same number, else its first.
func portLike(svc *mesh.Service, port mesh.Port) mesh.Port {
	for _, p := range svc.Ports {
		if port.Name != "" && p.Name == port.Name {
			return p
		}
	}
	for _, p := range svc.Ports {
		if p.Number == port.Number {
			return p
		}
	}
	return svc.Ports[0]
}
