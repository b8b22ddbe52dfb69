package mesh

import (
	"bytes"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// Merge makes a snapshot from nothing. The order of the parts does not matter;
// of two with the same Source and Scope the later counts.
func Merge(parts ...Part) (*Snapshot, []Conflict) {
	s, _ := (&Snapshot{}).With(parts...)
	return s, s.Conflicts()
}

// With makes the snapshot in which the given parts replace those of the same
// Source and Scope, and lists, sorted, the keys of all that reads differently.
// A part that says nothing removes the one before it. The cost grows with the
// parts given and with what changed, not with the mesh.
func (s *Snapshot) With(parts ...Part) (*Snapshot, []Key) {
	next := *s
	b := builder{old: s, s: &next, keys: map[Key]bool{}, dirty: map[string]bool{}, blocks: map[string]bool{}}
	for _, p := range parts {
		b.replace(partKey(p), index(p))
	}
	if b.global {
		b.globals()
	}
	b.follow()
	b.records()
	keys := slices.SortedFunc(maps.Keys(b.keys), Key.Compare)
	return &next, keys
}

// builder makes one snapshot from another.
type builder struct {
	old, s *Snapshot
	keys   map[Key]bool
	dirty  map[string]bool // names whose slots changed, or whose record may
	blocks map[string]bool // of them, those whose service blocks changed
	global bool            // a part that speaks of the whole mesh changed
}

func (b *builder) replace(key string, e *entry) {
	prev := b.s.entries.get(key)
	if prev == nil {
		prev = &entry{}
	}
	if e == nil {
		b.s.entries = b.s.entries.without(key)
		e = &entry{}
	} else {
		b.s.entries = b.s.entries.with(key, e)
	}
	if e.mesh != nil || prev.mesh != nil || len(e.defaults)+len(prev.defaults)+len(e.bundle)+len(prev.bundle)+len(e.away)+len(prev.away) > 0 {
		b.global = true
	}
	for name, was := range prev.slots {
		if is := e.slots[name]; is == nil {
			b.slot(key, name, was, nil)
		}
	}
	for name, is := range e.slots {
		was := prev.slots[name]
		if was != nil && equalSlot(was, is) {
			e.slots[name] = was
			continue
		}
		b.slot(key, name, was, is)
	}
}

func (b *builder) slot(part, name string, was, is *slot) {
	refs := setRef(b.s.sources.get(name), part, is)
	if len(refs) == 0 {
		b.s.sources = b.s.sources.without(name)
	} else {
		b.s.sources = b.s.sources.with(name, refs)
	}
	b.dirty[name] = true
	if was != nil && len(was.blocks) > 0 || is != nil && len(is.blocks) > 0 {
		b.blocks[name] = true
	}
}

// globals works out the mesh block, the defaults and the bundle anew.
func (b *builder) globals() {
	s := b.s
	s.config, s.defaults, s.bundle, s.away, s.conflicts = nil, nil, nil, nil, nil
	s.entries.all(func(_ string, e *entry) {
		switch {
		case e.mesh == nil:
		case s.config == nil:
			s.config = e.mesh
		default:
			s.conflicts = append(s.conflicts, Conflict{Key{KindMesh, ""}, []Pos{s.config.Pos, e.mesh.Pos}, "There are two mesh blocks; the first counts."})
		}
		s.defaults = append(s.defaults, e.defaults...)
		if len(e.bundle) > 0 {
			s.bundle = append(s.bundle, e.bundle...)
			if !bytes.HasSuffix(s.bundle, []byte("\n")) {
				s.bundle = append(s.bundle, '\n')
			}
		}
		s.away = append(s.away, e.away...)
	})
	slices.Sort(s.away)
	s.away = slices.Compact(s.away)
	slices.SortStableFunc(s.defaults, func(a, b *Defaults) int {
		if c := longer(a.Label, b.Label); c != 0 {
			return c
		}
		return comparePos(a.Pos, b.Pos)
	})
	for i := 1; i < len(s.defaults); i++ {
		if x, y := s.defaults[i-1], s.defaults[i]; x.Label == y.Label {
			s.conflicts = append(s.conflicts, Conflict{Key{KindDefaults, ""}, []Pos{x.Pos, y.Pos}, "There are two defaults blocks " + Quote(x.Label) + "; the first counts."})
		}
	}
	mesh, defaults := s.Config() != b.old.Config(), !reflect.DeepEqual(s.defaults, b.old.defaults)
	b.mark(Key{KindMesh, ""}, mesh)
	b.mark(Key{KindDefaults, ""}, defaults)
	b.mark(Key{KindBundle, ""}, !bytes.Equal(s.bundle, b.old.bundle))
	b.mark(Key{KindAway, ""}, !slices.Equal(s.away, b.old.away))
	if mesh || defaults {
		s.records.all(func(name string, _ *record) { b.dirty[name] = true })
	}
}

func (b *builder) mark(k Key, changed bool) {
	if changed {
		b.keys[k] = true
	}
}

// follow adds the names whose instances depend on those that changed.
func (b *builder) follow() {
	for name := range b.blocks {
		was, is := otherNames(b.old.blockOf(name)), otherNames(b.s.blockOf(name))
		for _, n := range was {
			b.claim(n, name, false)
		}
		for _, n := range is {
			b.claim(n, name, true)
		}
		for _, n := range append(was, is...) {
			b.dirty[n] = true
		}
	}
	for _, name := range slices.Collect(maps.Keys(b.dirty)) {
		for _, by := range b.s.claims.get(name) {
			b.dirty[by] = true
		}
	}
}

func (b *builder) claim(registered, by string, on bool) {
	list := slices.Clone(b.s.claims.get(registered))
	i, found := slices.BinarySearch(list, by)
	switch {
	case on && !found:
		list = slices.Insert(list, i, by)
	case !on && found:
		list = slices.Delete(list, i, i+1)
	}
	if len(list) == 0 {
		b.s.claims = b.s.claims.without(registered)
		return
	}
	b.s.claims = b.s.claims.with(registered, list)
}

// records computes every dirty record anew and carries the differences into the
// snapshot's other indices.
func (b *builder) records() {
	names, open, patterns := newEdit(), newEdit(), newEdit()
	callers := map[string]bool{}
	for _, name := range slices.Sorted(maps.Keys(b.dirty)) {
		old := b.old.records.get(name)
		rec := b.s.compute(name, old)
		if rec.empty() {
			b.s.records = b.s.records.without(name)
		} else {
			b.s.records = b.s.records.with(name, rec)
		}
		if old == nil {
			old = &record{}
		}
		b.compare(name, old, rec)
		names.set(name, old.service != nil, rec.service != nil)
		open.set(name, old.service.isOpen(), rec.service.isOpen())
		patterns.set(name, IsPattern(name) && len(old.intentions) > 0, IsPattern(name) && len(rec.intentions) > 0)
		b.named(&b.s.callers, old.tokens, rec.tokens, callers, func(t string) (string, string) { return t, name })
		b.named(&b.s.retained, old.retained, rec.retained, callers, func(to string) (string, string) { return name, to })
		b.place(name, old.instances, rec.instances)
	}
	b.mark(Key{KindServices, ""}, names.changed())
	b.s.names = apply(names, b.s.names)
	b.mark(Key{KindOpen, ""}, open.changed())
	b.s.open = apply(open, b.s.open)
	b.mark(Key{KindPatterns, ""}, patterns.changed())
	b.s.patterns = apply(patterns, b.s.patterns)
	tokens := newEdit()
	for t := range callers {
		was, is := b.old.Naming(t), b.s.Naming(t)
		b.mark(Key{KindCaller, t}, !slices.Equal(was, is))
		tokens.set(t, IsPattern(t) && len(was) > 0, IsPattern(t) && len(is) > 0)
	}
	b.mark(Key{KindCallers, ""}, tokens.changed())
	b.s.callerPatterns = apply(tokens, b.s.callerPatterns)
}

func (svc *Service) isOpen() bool { return svc != nil && svc.DefaultIntention == ActionAllow }

func (rec *record) empty() bool {
	return rec.service == nil && rec.route == nil &&
		len(rec.instances)+len(rec.intentions)+len(rec.retained)+len(rec.conflicts) == 0
}

func (b *builder) compare(name string, old, rec *record) {
	b.mark(Key{KindService, name}, rec.service != old.service && !equalService(rec.service, old.service))
	b.mark(Key{KindInstances, name}, !equalInstances(old.instances, rec.instances))
	b.mark(Key{KindRoute, name}, old.route != rec.route && !reflect.DeepEqual(old.route, rec.route))
	b.mark(Key{KindIntention, name}, !reflect.DeepEqual(old.intentions, rec.intentions))
}

// named carries a change of who is named as a caller into an index of pairs.
func (b *builder) named(index *tree[struct{}], was, is []string, callers map[string]bool, pair func(string) (token, label string)) {
	if slices.Equal(was, is) {
		return
	}
	for _, x := range was {
		token, label := pair(x)
		*index = index.without(token + "\x00" + label)
		callers[token] = true
	}
	for _, x := range is {
		token, label := pair(x)
		*index = index.with(token+"\x00"+label, struct{}{})
		callers[token] = true
	}
}

// place carries a change of a service's instances into the index by node.
func (b *builder) place(name string, was, is []*Instance) {
	if slices.Equal(was, is) {
		return
	}
	before, after := byNode(was), byNode(is)
	for node := range before {
		if after[node] == nil {
			after[node] = nil
		}
	}
	for node, list := range after {
		key := node + "\x00" + name
		if len(list) == 0 {
			b.s.nodes = b.s.nodes.without(key)
		} else {
			b.s.nodes = b.s.nodes.with(key, list)
		}
		b.mark(Key{KindNode, node}, !equalInstances(before[node], list))
	}
}

func byNode(list []*Instance) map[string][]*Instance {
	m := map[string][]*Instance{}
	for _, in := range list {
		if in.Node != "" && in.Barred == "" {
			m[in.Node] = append(m[in.Node], in)
		}
	}
	return m
}

// edit is a change of a sorted set of names.
type edit struct{ add, drop map[string]bool }

func newEdit() edit { return edit{map[string]bool{}, map[string]bool{}} }

func (e edit) set(name string, was, is bool) {
	switch {
	case is && !was:
		e.add[name] = true
	case was && !is:
		e.drop[name] = true
	}
}

func (e edit) changed() bool { return len(e.add)+len(e.drop) > 0 }

func apply[S ~string](e edit, list []S) []S {
	if !e.changed() {
		return list
	}
	out := make([]S, 0, len(list)+len(e.add))
	for _, s := range list {
		if !e.drop[string(s)] {
			out = append(out, s)
		}
	}
	for s := range e.add {
		out = append(out, S(s))
	}
	slices.SortFunc(out, func(a, b S) int { return strings.Compare(string(a), string(b)) })
	return out
}
