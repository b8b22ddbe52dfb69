package mesh

import "slices"

// gather fills in the instances of a service: those registered under its name,
// as far as its source blocks take them and no other block does, and those its
// source blocks take from under other names.
func (rec *record) gather(s *Snapshot, name string, block *ServiceConfig, members []*Member) {
	var list []*Instance
	if block == nil {
		list = s.unclaimed(name)
	} else {
		for _, in := range s.registered(name) {
			if in.Source == "file" || len(block.Sources) == 0 || takes(block, in) {
				list = append(list, in)
			}
		}
		for _, other := range otherNames(block) {
			for _, in := range s.registered(other) {
				if in.Source != "file" && takes(block, in) {
					c := *in
					c.Service, c.Registered = block.Name, registeredName(in)
					list = append(list, &c)
				}
			}
		}
	}
	places := s.placesOf(name, block)
	for i, in := range list {
		why := s.barred(places, in)
		if why != "" || slices.ContainsFunc(members, func(m *Member) bool { return m.holds(in) }) {
			c := *in
			c.In, c.Barred = why == "", why
			list[i] = &c
		}
	}
	slices.SortFunc(list, compareInstances)
	rec.voters, rec.instances = list, rec.unique(name, list)
	rec.allElsewhere(name, places)
}

// unique drops instances that a source names twice: one address gets one share
// of the calls, and one id means one thing.
func (rec *record) unique(name string, list []*Instance) []*Instance {
	type id struct{ source, dc, ns, node, id string }
	ids := map[id]bool{}
	out := list[:0:0]
	for _, in := range list {
		k := id{in.Source, in.Datacenter, in.Namespace, in.Node, in.ID}
		switch n := len(out); {
		case n > 0 && out[n-1].Addr == in.Addr:
			if out[n-1].Source == in.Source {
				rec.conflict(Key{KindInstances, name}, "Two instances of "+name+" are at "+in.Addr.String()+", "+
					Quote(out[n-1].ID)+" and "+Quote(in.ID)+"; the first counts.", out[n-1].Pos, in.Pos)
			}
		case in.ID != "" && ids[k]:
			rec.conflict(Key{KindInstances, name}, "Two instances of "+name+" on "+Quote(in.Node)+" have the id "+
				Quote(in.ID)+"; the first counts.", in.Pos)
		default:
			ids[k] = ids[k] || in.Barred == ""
			out = append(out, in)
		}
	}
	return out
}

// registered lists what the sources say under a name, whosoever it is.
func (s *Snapshot) registered(name string) []*Instance {
	var list []*Instance
	for _, r := range s.sources.get(name) {
		list = append(list, r.slot.instances...)
	}
	return allocated(list, s.sources.get(name))
}

// unclaimed lists what is registered under a name and taken by no block of another name.
func (s *Snapshot) unclaimed(name string) []*Instance {
	list := s.registered(name)
	for _, by := range s.claims.get(name) {
		if block := s.blockOf(by); block != nil && by != name {
			list = slices.DeleteFunc(list, func(in *Instance) bool { return in.Source != "file" && takes(block, in) })
		}
	}
	return list
}

// otherNames lists the registries' names, besides its own, that a block takes instances from.
func otherNames(block *ServiceConfig) []string {
	if block == nil {
		return nil
	}
	var names []string
	for _, ref := range block.Sources {
		if ref.Service != "" && ref.Service != string(block.Name) {
			names = append(names, ref.Service)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func registeredName(in *Instance) string {
	if in.Registered != "" {
		return in.Registered
	}
	return string(in.Service)
}

func takes(block *ServiceConfig, in *Instance) bool {
	return slices.ContainsFunc(block.Sources, func(ref SourceRef) bool {
		name := ref.Service
		if name == "" {
			name = string(block.Name)
		}
		if ref.Kind != in.Source || name != registeredName(in) ||
			len(ref.Datacenters) > 0 && !slices.Contains(ref.Datacenters, in.Datacenter) ||
			ref.Namespace != "" && ref.Namespace != in.Namespace {
			return false
		}
		// A filter that nobody compiled takes nothing: rather too few than a stranger.
		return ref.Filter == "" && ref.Match == nil || ref.Match != nil && ref.Match.Match(in)
	})
}

// holds says whether the member speaks of an instance of its service.
func (m *Member) holds(in *Instance) bool {
	return m.Node != "" && m.Node == in.Node && m.Workload == in.Workload &&
		(len(m.Addrs) == 0 || slices.Contains(m.Addrs, in.Addr.Addr())) &&
		(len(m.Ports) == 0 || slices.Contains(m.Ports, in.Application(in.Addr)))
}
