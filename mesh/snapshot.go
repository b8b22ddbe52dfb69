package mesh

import (
	"maps"
	"slices"
)

// Snapshot is everything the mesh knows at one moment. It is built by Merge or
// With, read by its methods, never changed, and shares what did not change with
// the snapshot it was made from. The zero Snapshot is an empty mesh. What its
// methods hand out is shared by all readers: read it, never write to it.
type Snapshot struct {
	entries tree[*entry]    // by part
	sources tree[[]slotRef] // by name: what the parts say of it
	claims  tree[[]string]  // by a registry's name: the blocks of other names that take instances from it
	records tree[*record]   // by name: what the mesh makes of it

	callers  tree[struct{}] // "caller's token\x00label"
	retained tree[struct{}] // "caller\x00destination"
	nodes    tree[[]*Instance]

	config         *Config
	defaults       []*Defaults // narrowest label first
	bundle         []byte
	away           []string
	names, open    []ServiceName
	patterns       []string
	callerPatterns []string
	conflicts      []Conflict // of the mesh and defaults blocks
}

// Config is the mesh block with its defaults filled in: strict, deny,
// registered, and the trust domain kerege.local.
func (s *Snapshot) Config() Config { return s.config.filled() }

// Defaults are the defaults blocks, the narrowest label first.
func (s *Snapshot) Defaults() []*Defaults { return s.defaults }

// Bundle is the PEM of the trusted roots; nil before a CA has spoken.
func (s *Snapshot) Bundle() []byte { return s.bundle }

// Away are the marks of the nodes that are trusted no more, sorted.
func (s *Snapshot) Away() []string { return s.away }

// Services are the names of all services, sorted: those with a block, an
// instance, or an intention of their own.
func (s *Snapshot) Services() []ServiceName { return s.names }

// Open are the names of the services that admit, by default, whom no intention
// speaks of (default_intention is allow), sorted.
func (s *Snapshot) Open() []ServiceName { return s.open }

// Service is a service with every setting resolved; nil when there is none.
func (s *Snapshot) Service(name ServiceName) *Service {
	if rec := s.records.get(string(name)); rec != nil {
		return rec.service
	}
	return nil
}

// Instances are a service's instances, sorted by address, each address once.
func (s *Snapshot) Instances(name ServiceName) []*Instance {
	if rec := s.records.get(string(name)); rec != nil {
		return rec.instances
	}
	return nil
}

// Route is a service's route block; nil when there is none.
func (s *Snapshot) Route(name ServiceName) *Route {
	if rec := s.records.get(string(name)); rec != nil {
		return rec.route
	}
	return nil
}

// Labelled are the intentions with exactly this label: a name, a pattern or "*".
func (s *Snapshot) Labelled(label string) []*Intention {
	if rec := s.records.get(label); rec != nil {
		return rec.intentions
	}
	return nil
}

// Patterns are the intentions' labels that are patterns, sorted.
func (s *Snapshot) Patterns() []string { return s.patterns }

// Intentions are all that speak of a destination: its own, then those of the
// patterns that match it.
func (s *Snapshot) Intentions(dest ServiceName) []*Intention {
	list := slices.Clone(s.Labelled(string(dest)))
	for _, p := range s.patterns {
		if MatchName(p, dest) {
			list = append(list, s.Labelled(p)...)
		}
	}
	return list
}

// CallerPatterns are the patterns by which intentions name callers, sorted.
func (s *Snapshot) CallerPatterns() []string { return s.callerPatterns }

// Naming are the labels of the intentions that name a caller by exactly this
// token (a name, a pattern or "*"), and the destinations retained for it.
func (s *Snapshot) Naming(token string) []string {
	var list []string
	add := func(label string, _ struct{}) { list = append(list, label) }
	s.callers.scan(token+"\x00", add)
	s.retained.scan(token+"\x00", add)
	slices.Sort(list)
	return slices.Compact(list)
}

// Destinations are the services whose intentions, allow or deny, name the
// caller, and those retained for it. A deny of "*" names nobody.
func (s *Snapshot) Destinations(caller ServiceName) []ServiceName {
	tokens := []string{string(caller)}
	for _, p := range s.callerPatterns {
		if MatchName(p, caller) {
			tokens = append(tokens, p)
		}
	}
	set := map[ServiceName]bool{}
	for _, t := range tokens {
		for _, label := range s.Naming(t) {
			if !IsPattern(label) {
				set[ServiceName(label)] = true
				continue
			}
			for _, n := range s.names {
				if MatchName(label, n) {
					set[n] = true
				}
			}
		}
	}
	return slices.Sorted(maps.Keys(set))
}

// Node lists what the registries place on a node, sorted by service and address;
// what is barred there is not placed.
func (s *Snapshot) Node(name string) []*Instance {
	var list []*Instance
	s.nodes.scan(name+"\x00", func(_ string, in []*Instance) { list = append(list, in...) })
	return list
}

// Conflicts lists what the parts disagree on and what was refused, in a stable order.
func (s *Snapshot) Conflicts() []Conflict {
	list := slices.Clone(s.conflicts)
	s.entries.all(func(_ string, e *entry) { list = append(list, e.refused...) })
	s.records.all(func(_ string, rec *record) { list = append(list, rec.conflicts...) })
	slices.SortStableFunc(list, func(a, b Conflict) int { return a.Key.Compare(b.Key) })
	return list
}
