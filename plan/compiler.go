package plan

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/kerege/kerege/mesh"
)

// Compiler keeps the plans of the connected proxies in step with the snapshot.
// It remembers which keys each unit (a service's clusters, its policies, an
// upstream, a proxy) read and which units it was made from, and on a change
// makes anew only what read a changed key or stands on a unit that came out
// different. A unit that comes out equal keeps its pointer and the chain stops.
//
// It is for one goroutine at a time; the plans it hands out are never changed.
type Compiler struct {
	snap    *mesh.Snapshot
	units   map[unitID]*unit
	readers map[mesh.Key]map[*unit]struct{}
}

// NewCompiler starts without proxies. snap may be the empty snapshot.
func NewCompiler(snap *mesh.Snapshot) *Compiler {
	return &Compiler{snap: snap, units: map[unitID]*unit{}, readers: map[mesh.Key]map[*unit]struct{}{}}
}

// level orders units: a unit stands only on units of lower levels.
type level uint8

const (
	clustersUnit level = iota
	policiesUnit
	upstreamsUnit
	proxyUnit
	levels
)

// unitID names a unit; node is set for proxies alone.
type unitID struct {
	level   level
	service mesh.ServiceName
	caller  mesh.ServiceName
	proxy   mesh.ProxyID
}

// compareUnits orders units of one level.
func compareUnits(a, b *unitID) int {
	if a.level == proxyUnit {
		return a.proxy.Compare(b.proxy)
	}
	return cmp.Or(cmp.Compare(a.service, b.service), cmp.Compare(a.caller, b.caller))
}

// unit is one memoised piece with what it read and what it stands on.
type unit struct {
	id       unitID
	clusters []*Cluster
	policies []*Policy
	upstream upstreamUnit
	node     Node
	proxy    *Proxy
	problems []Problem

	keys map[mesh.Key]struct{}
	deps map[*unit]struct{} // stands on
	used map[*unit]struct{} // stood on by
}

// Add compiles a proxy and keeps its plan from now on. Adding it again with
// another Node replaces it.
func (c *Compiler) Add(n Node) *Proxy {
	id := unitID{level: proxyUnit, proxy: n.ID}
	u := c.units[id]
	if u == nil {
		u = c.create(id)
	}
	n.Explicit = slices.Clone(n.Explicit)
	u.node = n
	c.evaluate(u)
	return u.proxy
}

// Remove forgets a proxy and whatever nobody else stands on.
func (c *Compiler) Remove(id mesh.ProxyID) {
	if u := c.units[unitID{level: proxyUnit, proxy: id}]; u != nil {
		c.drop(u)
	}
}

// Plan is the plan that is kept for a proxy; nil when the proxy is not known.
func (c *Compiler) Plan(id mesh.ProxyID) *Proxy {
	if u := c.units[unitID{level: proxyUnit, proxy: id}]; u != nil {
		return u.proxy
	}
	return nil
}

// Proxy is the plan that is kept for a proxy, and the problems of all that it is
// made of, sorted; nil when the proxy is not known.
func (c *Compiler) Proxy(id mesh.ProxyID) (*Proxy, []Problem) {
	u := c.units[unitID{level: proxyUnit, proxy: id}]
	if u == nil {
		return nil, nil
	}
	var problems []Problem
	seen := map[*unit]bool{}
	var visit func(*unit)
	visit = func(u *unit) {
		if seen[u] {
			return
		}
		seen[u] = true
		problems = append(problems, u.problems...)
		for d := range u.deps {
			visit(d)
		}
	}
	visit(u)
	return u.proxy, sortProblems(problems)
}

// Proxies lists the proxies that are kept, sorted.
func (c *Compiler) Proxies() []mesh.ProxyID {
	var list []mesh.ProxyID
	for id := range c.units {
		if id.level == proxyUnit {
			list = append(list, id.proxy)
		}
	}
	slices.SortFunc(list, mesh.ProxyID.Compare)
	return list
}

// Snapshot is the one that the kept plans are of.
func (c *Compiler) Snapshot() *mesh.Snapshot { return c.snap }

// Update goes over to a snapshot. changed must hold every key that reads
// differently in it, as With and mesh.Diff list them. The proxies whose plans
// changed come back sorted.
func (c *Compiler) Update(snap *mesh.Snapshot, changed []mesh.Key) (dirty []mesh.ProxyID) {
	c.snap = snap
	r := round{c: c}
	for _, k := range changed {
		for u := range c.readers[k] {
			r.at(u).reads = true
		}
	}
	for l := range levels {
		for _, u := range r.todo(l) {
			if c.units[u.id] != u {
				continue // nobody stands on it any more
			}
			if r.refresh(u) && l == proxyUnit {
				dirty = append(dirty, u.id.proxy)
			}
		}
	}
	return dirty
}

// round is one Update.
type round struct {
	c       *Compiler
	changes [levels]map[*unit]*change
	spare   []change
}

// change is why a unit may have to be made anew.
type change struct {
	reads bool // a key that it read changed
	shape bool // a unit under it changed in more than its pointer
	// Of the units under it, what was replaced by what.
	upstreams []swap[Upstream]
	policies  []swap[Policy]
}

type swap[T any] struct{ was, is *T }

func (r *round) at(u *unit) *change {
	m := r.changes[u.id.level]
	if m == nil {
		m = map[*unit]*change{}
		r.changes[u.id.level] = m
	}
	ch := m[u]
	if ch == nil {
		if len(r.spare) == 0 {
			r.spare = make([]change, 64)
		}
		ch, r.spare = &r.spare[0], r.spare[1:]
		m[u] = ch
	}
	return ch
}

func (r *round) todo(l level) []*unit {
	list := slices.AppendSeq(make([]*unit, 0, len(r.changes[l])), maps.Keys(r.changes[l]))
	slices.SortFunc(list, func(a, b *unit) int { return compareUnits(&a.id, &b.id) })
	return list
}

// refresh makes a unit anew, tells those that stand on it, and says whether it differs.
func (r *round) refresh(u *unit) bool {
	was := *u
	ch := r.changes[u.id.level][u]
	if u.id.level != proxyUnit || ch.reads || ch.shape {
		r.c.evaluate(u)
	} else {
		u.substitute(ch)
	}
	switch u.id.level {
	case clustersUnit:
		if slices.Equal(was.clusters, u.clusters) {
			return false
		}
	case policiesUnit:
		if slices.Equal(was.policies, u.policies) {
			return false
		}
	case upstreamsUnit:
		if was.upstream.up == u.upstream.up && slices.Equal(was.upstream.from, u.upstream.from) {
			return false
		}
	default:
		return was.proxy != u.proxy
	}
	for by := range u.used {
		r.at(by).add(&was, u)
	}
	return true
}

// add notes that a unit under this one was replaced.
func (ch *change) add(was, is *unit) {
	switch is.id.level {
	case upstreamsUnit:
		// Where the route names other callers than before, a proxy may have to
		// choose anew between the upstream for everybody and its own.
		if was.upstream.up == nil || is.upstream.up == nil || !slices.Equal(was.upstream.from, is.upstream.from) {
			ch.shape = true
			return
		}
		ch.upstreams = append(ch.upstreams, swap[Upstream]{was.upstream.up, is.upstream.up})
	case policiesUnit:
		if len(was.policies) != len(is.policies) {
			ch.shape = true
			return
		}
		for i, p := range is.policies {
			if was.policies[i] != p {
				ch.policies = append(ch.policies, swap[Policy]{was.policies[i], p})
			}
		}
	default:
		ch.shape = true
	}
}

// substitute puts the replaced units into a proxy's plan without asking for
// every other one again: a proxy of a thousand upstreams pays for the one that changed.
func (u *unit) substitute(ch *change) {
	p := *u.proxy
	p.Outbound = slices.Clone(p.Outbound)
	for _, up := range ch.upstreams {
		i, found := slices.BinarySearchFunc(p.Outbound, up.was.Service, func(o *Upstream, name mesh.ServiceName) int {
			return strings.Compare(string(o.Service), string(name))
		})
		if found && p.Outbound[i] == up.was {
			p.Outbound[i] = up.is
		}
	}
	if len(ch.policies) > 0 {
		p.Inbound = slices.Clone(p.Inbound)
	}
	for _, po := range ch.policies {
		for i, in := range p.Inbound {
			if in.Policy == po.was {
				c := *in
				c.Policy = po.is
				p.Inbound[i] = &c
			}
		}
	}
	u.proxy = keepProxy(u.proxy, &p)
}

// evaluate makes a unit from the current snapshot and notes what it read.
func (c *Compiler) evaluate(u *unit) {
	v := NewView(c.snap)
	e := &evaluation{c: c, deps: map[*unit]struct{}{}}
	id := u.id
	switch id.level {
	case clustersUnit:
		now, problems := compileClusters(v, id.service)
		u.clusters, u.problems = keepClusters(u.clusters, now), problems
	case policiesUnit:
		now, problems := compilePolicies(v, id.service)
		u.policies, u.problems = keepPolicies(u.policies, now), problems
	case upstreamsUnit:
		now, problems := compileUpstream(v, e, id.service, id.caller)
		now.up = keepUpstream(u.upstream.up, now.up)
		u.upstream, u.problems = now, problems
	default:
		u.proxy = keepProxy(u.proxy, compileProxy(v, e, u.node))
	}
	c.note(u, v.keys, e.deps)
}

// note replaces what a unit read and stands on, and drops what nobody stands on any more.
func (c *Compiler) note(u *unit, keys map[mesh.Key]struct{}, deps map[*unit]struct{}) {
	for k := range u.keys {
		if _, still := keys[k]; !still {
			delete(c.readers[k], u)
			if len(c.readers[k]) == 0 {
				delete(c.readers, k)
			}
		}
	}
	for k := range keys {
		if c.readers[k] == nil {
			c.readers[k] = map[*unit]struct{}{}
		}
		c.readers[k][u] = struct{}{}
	}
	was := u.deps
	u.keys, u.deps = keys, deps
	for d := range deps {
		d.used[u] = struct{}{}
		delete(was, d)
	}
	for d := range was {
		delete(d.used, u)
		if len(d.used) == 0 {
			c.drop(d)
		}
	}
}

func (c *Compiler) create(id unitID) *unit {
	u := &unit{id: id, used: map[*unit]struct{}{}}
	c.units[id] = u
	return u
}

func (c *Compiler) drop(u *unit) {
	c.note(u, nil, nil)
	delete(c.units, u.id)
}

// evaluation gives a unit the units it stands on, and notes them.
type evaluation struct {
	c    *Compiler
	deps map[*unit]struct{}
}

func (e *evaluation) unit(id unitID) *unit {
	u := e.c.units[id]
	if u == nil {
		u = e.c.create(id)
		e.c.evaluate(u)
	}
	e.deps[u] = struct{}{}
	return u
}

func (e *evaluation) clusters(name mesh.ServiceName) []*Cluster {
	return e.unit(unitID{level: clustersUnit, service: name}).clusters
}

func (e *evaluation) upstream(name, caller mesh.ServiceName) upstreamUnit {
	return e.unit(unitID{level: upstreamsUnit, service: name, caller: caller}).upstream
}

func (e *evaluation) policies(name mesh.ServiceName) []*Policy {
	return e.unit(unitID{level: policiesUnit, service: name}).policies
}
