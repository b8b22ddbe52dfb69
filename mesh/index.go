package mesh

import (
	"net/netip"
	"slices"
)

// entry is one part, sorted by the names it speaks of.
type entry struct {
	mesh     *Config
	defaults []*Defaults
	bundle   []byte
	away     []string
	slots    map[string]*slot
	refused  []Conflict
}

// slot is all that one part says of one name: a service's, a registry's own, or
// an intention's label.
type slot struct {
	blocks      []*ServiceConfig
	routes      []*Route
	intentions  []*Intention
	instances   []*Instance
	members     []*Member
	vips        []netip.Addr
	served      *Served
	allocations map[string]*Allocation // by workload
	retained    []string               // destinations kept for the caller of that name
}

func partKey(p Part) string { return p.Source + "\x00" + p.Scope }

// index copies a part, so that the caller may go on using its slices. It gives
// nil for a part that says nothing.
func index(p Part) *entry {
	e := &entry{mesh: p.Mesh, bundle: slices.Clone(p.Bundle), away: slices.Clone(p.Away), slots: map[string]*slot{}}
	for i := range p.Defaults {
		e.defaults = append(e.defaults, new(p.Defaults[i]))
	}
	for i := range p.Services {
		b := new(p.Services[i])
		e.at(string(b.Name)).blocks = append(e.at(string(b.Name)).blocks, b)
	}
	for i := range p.Routes {
		r := new(p.Routes[i])
		e.at(string(r.Service)).routes = append(e.at(string(r.Service)).routes, r)
	}
	for i := range p.Intentions {
		in := new(p.Intentions[i])
		e.at(in.Label).intentions = append(e.at(in.Label).intentions, in)
	}
	for i := range p.Members {
		m := new(p.Members[i])
		e.at(string(m.Service)).members = append(e.at(string(m.Service)).members, m)
	}
	for _, v := range p.VIPs {
		if v.V4.Is4() {
			e.at(string(v.Service)).vips = append(e.at(string(v.Service)).vips, v.V4)
		}
	}
	for i := range p.Served {
		if at := e.at(string(p.Served[i].Service)); at.served == nil {
			at.served = new(p.Served[i])
		}
	}
	for _, a := range p.Allocations {
		at := e.at(a.Service)
		if at.allocations == nil {
			at.allocations = map[string]*Allocation{}
		}
		if at.allocations[a.Workload] == nil {
			at.allocations[a.Workload] = newAllocation(a)
		}
	}
	for _, r := range p.Retained {
		e.at(string(r.From)).retained = append(e.at(string(r.From)).retained, string(r.To))
	}
	for i := range p.Instances {
		e.add(p.Instances[i])
	}
	for _, s := range e.slots {
		slices.SortFunc(s.instances, compareInstances)
		slices.Sort(s.retained)
		s.retained = slices.Compact(s.retained)
	}
	if e.mesh == nil && e.defaults == nil && len(e.bundle)+len(e.away) == 0 && len(e.slots) == 0 && e.refused == nil {
		return nil
	}
	return e
}

func (e *entry) at(name string) *slot {
	s := e.slots[name]
	if s == nil {
		s = &slot{}
		e.slots[name] = s
	}
	return s
}

func (e *entry) add(in Instance) {
	if err := CheckInstance(&in); err != nil {
		e.refused = append(e.refused, Conflict{
			Key:   Key{KindInstances, shorten(string(in.Service))},
			Where: []Pos{in.Pos},
			What: "The instance " + Quote(in.ID) + " of " + Quote(string(in.Service)) + " from " + Quote(in.Source) +
				" is refused: " + err.Error() + ".",
		})
		return
	}
	in.Weight = max(in.Weight, 1)
	in.In, in.Barred, in.Allocation = false, "", nil
	if !slices.IsSorted(in.Tags) {
		in.Tags = slices.Sorted(slices.Values(in.Tags))
	}
	e.at(string(in.Service)).instances = append(e.at(string(in.Service)).instances, &in)
}

func shorten(s string) string {
	if len(s) > MaxNodeName {
		return s[:MaxNodeName]
	}
	return s
}

// slotRef is one part's slot in the list of all slots of a name, which is
// sorted by the parts' keys.
type slotRef struct {
	part string
	slot *slot
}

func setRef(refs []slotRef, part string, s *slot) []slotRef {
	i, found := slices.BinarySearchFunc(refs, part, func(r slotRef, key string) int {
		switch {
		case r.part < key:
			return -1
		case r.part > key:
			return 1
		}
		return 0
	})
	refs = slices.Clone(refs)
	switch {
	case s == nil && found:
		return slices.Delete(refs, i, i+1)
	case s == nil:
		return refs
	case found:
		refs[i].slot = s
		return refs
	}
	return slices.Insert(refs, i, slotRef{part, s})
}
