package registry

import (
	"cmp"
	"net/netip"
	"reflect"
	"slices"
	"time"

	"github.com/kerege/kerege/mesh"
)

// The shrink guard's figures. A loss of fewer than guardLeast endpoints never
// trips it, or a mesh of five endpoints could not lose two.
const (
	guardLeast  = 3
	guardWindow = 10 * time.Second // losses that follow each other this closely count as one
)

// Hold is a loss that the shrink guard keeps back.
type Hold struct {
	Source  string
	Service string // as the registry names it
	Removed int    // instances kept that the registry no longer has
	Of      int    // instances before
	Why     string // one sentence
	Since   time.Time
	Until   time.Time // when they go
	Leaving bool      // they are shown as unhealthy already
}

// Guard lists what the shrink guard keeps back, sorted.
func (h *Hub) Guard() []Hold {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.holds)
}

// Confirm lets what is held back of a service go at once. It says whether
// anything was held.
func (h *Hub) Confirm(service string) bool {
	h.mu.Lock()
	held := slices.ContainsFunc(h.holds, func(x Hold) bool { return x.Service == service })
	if held {
		h.confirms[service] = true
	}
	h.mu.Unlock()
	if held {
		h.wake()
	}
	return held
}

// guard belongs to the writer. It judges parts that are about one service; a
// directory of HCL is an operator's own word and is not held back.
type guard struct {
	opt   Options
	holds map[partKey]*hold
	pace  map[partKey]window
	all   window
	sizes map[partKey]int
	total int
}

type hold struct {
	Hold
	latest  mesh.Part // what the source says now
	removed []mesh.Instance
}

// window remembers the most endpoints there were since it began.
type window struct {
	at time.Time
	n  int
}

func (w window) grown(now time.Time, n int) window {
	if now.Sub(w.at) > guardWindow {
		return window{now, n}
	}
	w.n = max(w.n, n)
	return w
}

func newGuard(opt Options) guard {
	return guard{opt: opt, holds: map[partKey]*hold{}, pace: map[partKey]window{}, sizes: map[partKey]int{}}
}

func guarded(p mesh.Part) bool {
	return p.Scope != "" && len(p.Members)+len(p.VIPs)+len(p.Served)+len(p.Retained)+len(p.Services) == 0 &&
		p.Source != "members" && p.Source != "vips" && p.Source != "served" && p.Source != "retained"
}

// seen tells the guard what is there without judging it.
func (g *guard) seen(k partKey, p mesh.Part) {
	g.total += len(p.Instances) - g.sizes[k]
	g.sizes[k] = len(p.Instances)
	if len(p.Instances) == 0 {
		delete(g.sizes, k)
	}
}

// admit gives the parts as they are to be applied.
func (g *guard) admit(now time.Time, parts []mesh.Part, before map[partKey]mesh.Part, trouble func(time.Time, string) bool) []mesh.Part {
	g.all = g.all.grown(now, g.total)
	left := g.total
	for _, p := range parts {
		if guarded(p) {
			left += len(p.Instances) - g.sizes[keyOf(p)]
		}
	}
	lost := g.all.n - left
	mass := lost >= guardLeast && lost*5 > g.all.n
	var out []mesh.Part
	for _, p := range parts {
		if guarded(p) {
			k := keyOf(p)
			p = g.judge(now, p, before[k].Instances, mass, trouble)
			g.prune(now)
		}
		out = append(out, p)
	}
	for _, p := range parts {
		if guarded(p) {
			g.seen(keyOf(p), p)
		}
	}
	return out
}

// judge gives one part as it is to be applied: itself, or with what it lost.
func (g *guard) judge(now time.Time, p mesh.Part, before []mesh.Instance, mass bool, trouble func(time.Time, string) bool) mesh.Part {
	k := keyOf(p)
	if h := g.holds[k]; h != nil {
		h.removed = missing(append(slices.Clone(h.removed), missing(before, p.Instances)...), p.Instances)
		h.Removed, h.latest = len(h.removed), p
		if len(h.removed) == 0 {
			delete(g.holds, k)
			return p
		}
		return h.part()
	}
	w := g.pace[k].grown(now, len(before))
	g.pace[k] = w
	gone := missing(before, p.Instances)
	lost := w.n - len(p.Instances)
	why := ""
	switch {
	case len(gone) == 0:
	case lost >= guardLeast && lost*2 > w.n:
		why = "More than half of the service's instances went within ten seconds."
	case mass && lost > 0:
		why = "More than a fifth of all instances went within ten seconds."
	case len(p.Instances) == 0 && trouble(now, p.Source):
		why = "The service vanished while its registry was in trouble."
	}
	if why == "" {
		return p
	}
	h := &hold{latest: p, removed: gone, Hold: Hold{
		Source: p.Source, Service: p.Scope, Removed: len(gone), Of: len(before), Why: why,
		Since: now, Until: now.Add(g.opt.PanicHold + g.opt.DeregisterGrace),
	}}
	g.holds[k] = h
	return h.part()
}

// prune keeps the windows from growing with every service that ever was.
func (g *guard) prune(now time.Time) {
	if len(g.pace) <= 2*len(g.sizes)+64 {
		return
	}
	for k, w := range g.pace {
		if now.Sub(w.at) > guardWindow {
			delete(g.pace, k)
		}
	}
}

// part is the latest answer and what is held back, sorted.
func (h *hold) part() mesh.Part {
	p := h.latest
	p.Instances = slices.Clone(p.Instances)
	for _, in := range h.removed {
		if h.Leaving {
			in.Health = mesh.Unhealthy
		}
		p.Instances = append(p.Instances, in)
	}
	slices.SortStableFunc(p.Instances, compareInstance)
	return p
}

// expire moves the holds whose time has come: first to unhealthy, then away.
func (g *guard) expire(now time.Time) (parts []mesh.Part, again time.Time) {
	for k, h := range g.holds {
		leave := h.Since.Add(g.opt.PanicHold)
		switch {
		case !now.Before(h.Until):
			delete(g.holds, k)
			parts = append(parts, h.latest)
			continue
		case !now.Before(leave) && !h.Leaving:
			h.Leaving = true
			parts = append(parts, h.part())
		}
		next := h.Until
		if now.Before(leave) {
			next = leave
		}
		again = sooner(again, next)
	}
	sortParts(parts)
	return parts, again
}

func (g *guard) confirm(names map[string]bool) (parts []mesh.Part) {
	for k, h := range g.holds {
		if names[k.scope] {
			delete(g.holds, k)
			parts = append(parts, h.latest)
		}
	}
	sortParts(parts)
	return parts
}

func (g *guard) list() []Hold {
	var list []Hold
	for _, h := range g.holds {
		list = append(list, h.Hold)
	}
	slices.SortFunc(list, func(a, b Hold) int {
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.Source, b.Source))
	})
	return list
}

// place is what makes an instance the same one in two answers.
type place struct {
	dc, ns, node, id string
	addr             netip.AddrPort
}

func placeOf(in mesh.Instance) place {
	return place{in.Datacenter, in.Namespace, in.Node, in.ID, in.Addr}
}

// missing lists what of before is not in after, each once.
func missing(before, after []mesh.Instance) []mesh.Instance {
	have := make(map[place]bool, len(after))
	for _, in := range after {
		have[placeOf(in)] = true
	}
	var gone []mesh.Instance
	for _, in := range before {
		if !have[placeOf(in)] {
			have[placeOf(in)] = true
			gone = append(gone, in)
		}
	}
	return gone
}

func compareInstance(a, b mesh.Instance) int {
	return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Node, b.Node), cmp.Compare(a.ID, b.ID))
}

func sortParts(parts []mesh.Part) {
	slices.SortFunc(parts, func(a, b mesh.Part) int {
		return cmp.Or(cmp.Compare(a.Source, b.Source), cmp.Compare(a.Scope, b.Scope))
	})
}

// sooner is the earlier of two times, of which zero is none.
func sooner(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

// healthOnly says whether two answers about a service differ in health and
// weight alone.
func healthOnly(a, b mesh.Part) bool {
	if len(a.Instances) != len(b.Instances) || len(a.Instances) == 0 || !guarded(a) {
		return false
	}
	for i := range a.Instances {
		x, y := a.Instances[i], b.Instances[i]
		x.Health, x.Weight = y.Health, y.Weight
		if !reflect.DeepEqual(x, y) {
			return false
		}
	}
	return true
}
