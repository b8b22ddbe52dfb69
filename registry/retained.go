package registry

import (
	"cmp"
	"slices"
	"time"

	"github.com/kerege/kerege/mesh"
)

// kept is a right that was lost: From sees To until then. Both may be patterns,
// as the intention wrote them.
type kept struct {
	From, To string
	Until    time.Time
}

// retained belongs to the writer.
type retained struct {
	lasts time.Duration
	until map[[2]string]time.Time
}

func newRetained(opt Options, list []kept) *retained {
	r := &retained{lasts: opt.RetainFor, until: map[[2]string]time.Time{}}
	for _, k := range list {
		r.until[[2]string{k.From, k.To}] = k.Until
	}
	return r
}

func (r *retained) list() []kept {
	var list []kept
	for p, until := range r.until {
		list = append(list, kept{p[0], p[1], until})
	}
	slices.SortFunc(list, func(a, b kept) int { return cmp.Or(cmp.Compare(a.From, b.From), cmp.Compare(a.To, b.To)) })
	return list
}

// lost finds callers that intentions no longer name and keeps their view.
func (r *retained) lost(now time.Time, before, after *mesh.Snapshot, keys []mesh.Key) []mesh.Part {
	touched := map[string]bool{}
	for _, k := range keys {
		if k.Kind != mesh.KindIntention {
			continue
		}
		is := named(after.Labelled(k.Name))
		for _, token := range named(before.Labelled(k.Name)) {
			if !slices.Contains(is, token) {
				r.until[[2]string{token, k.Name}] = now.Add(r.lasts)
				touched[token] = true
			}
		}
	}
	return r.parts(touched)
}

// expire ends what was kept long enough.
func (r *retained) expire(now time.Time) ([]mesh.Part, time.Time) {
	touched := map[string]bool{}
	var again time.Time
	for p, until := range r.until {
		if !now.Before(until) {
			delete(r.until, p)
			touched[p[0]] = true
			continue
		}
		again = sooner(again, until)
	}
	return r.parts(touched), again
}

// all gives every part; what ended while the server was down is left out.
func (r *retained) all(now time.Time) []mesh.Part {
	r.expire(now)
	callers := map[string]bool{}
	for p := range r.until {
		callers[p[0]] = true
	}
	return r.parts(callers)
}

func (r *retained) parts(callers map[string]bool) []mesh.Part {
	if len(callers) == 0 {
		return nil
	}
	by := map[string]*mesh.Part{}
	for c := range callers {
		by[c] = &mesh.Part{Source: "retained", Scope: c}
	}
	for p := range r.until {
		if part := by[p[0]]; part != nil {
			part.Retained = append(part.Retained, mesh.Pair{From: mesh.ServiceName(p[0]), To: mesh.ServiceName(p[1])})
		}
	}
	var list []mesh.Part
	for _, p := range by {
		list = append(list, *p)
	}
	sortParts(list)
	return list
}

// named lists the callers that intentions speak of. A deny of "*" speaks of
// nobody, as in mesh.Snapshot.Naming.
func named(list []*mesh.Intention) []string {
	var names []string
	for _, in := range list {
		for _, rule := range in.Rules {
			for _, from := range rule.From {
				if from != "*" || rule.Action == mesh.ActionAllow {
					names = append(names, from)
				}
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
