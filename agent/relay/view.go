package relay

import (
	"cmp"
	"slices"
	"time"

	"github.com/kerege/kerege/xds/delta"
)

// hold is how long a resource waits for those it names.
const hold = 5 * time.Second

// item is one resource, as the server last said it and as Envoy is shown it.
type item struct {
	latest *delta.Resource // nil: removed
	shown  *delta.Resource // in the set; nil: not
	good   *delta.Resource // the last known to be accepted
	bad    string          // the version of latest that Envoy refused; "": none
	words  string          // Envoy's
	since  time.Time       // waiting since
}

// view puts the resources of one proxy together, so that a set never names what
// is not in it while that may still come.
type view struct {
	items   map[delta.Ref]*item
	waiting map[delta.Ref]*item // latest is not shown yet
	groups  []*delta.Group      // one a resource, sorted by key; replaced, never changed
	set     *delta.Set
	dirty   map[string]*delta.Group // changes of groups since set was made; nil: removed
	shown   func(typ, name string, body []byte)
}

func newView() *view {
	return &view{items: map[delta.Ref]*item{}, waiting: map[delta.Ref]*item{}, dirty: map[string]*delta.Group{}, set: &delta.Set{},
		shown: func(string, string, []byte) {}}
}

// showRank orders what is shown: who is named before who names.
var showRank = map[string]int{delta.TypeCluster: 1, delta.TypeRoute: 2, delta.TypeListener: 3}

func ref(r *delta.Resource) delta.Ref { return delta.Ref{Type: r.Type, Name: r.Name} }

// put takes what the server says now. accepted is the one that an Envoy holds
// of this name, or nil.
func (v *view) put(now time.Time, r, accepted *delta.Resource) {
	it := v.items[ref(r)]
	if it == nil {
		it = &item{}
		v.items[ref(r)] = it
	}
	if it.latest != nil && it.latest.Version == r.Version {
		return
	}
	if accepted != nil {
		it.good = accepted
	}
	it.latest, it.bad, it.words, it.since = r, "", "", now
	v.waiting[ref(r)] = it
}

// load takes what the disk had: it was accepted and is shown as it is.
func (v *view) load(rs []*delta.Resource) {
	for _, r := range rs {
		it := &item{latest: r, good: r}
		v.items[ref(r)] = it
		v.show(ref(r), it, r)
	}
	v.freeze()
}

func (v *view) remove(at delta.Ref) {
	it := v.items[at]
	if it == nil {
		return
	}
	v.show(at, it, nil)
	delete(v.items, at)
	delete(v.waiting, at)
}

// refuse notes that an Envoy does not take a version; the last accepted one is
// shown instead. It returns false when that is no news.
func (v *view) refuse(at delta.Ref, version, words string, accepted *delta.Resource) bool {
	it := v.items[at]
	if it == nil || it.latest.Version != version || it.bad == version {
		return false
	}
	if accepted != nil && accepted.Version != version {
		it.good = accepted
	}
	if it.good != nil && it.good.Version == version {
		it.good = nil
	}
	it.bad, it.words = version, words
	delete(v.waiting, at)
	v.show(at, it, it.good)
	return true
}

// forgive shows again what another Envoy refused.
func (v *view) forgive(now time.Time) {
	for at, it := range v.items {
		if it.bad != "" {
			it.bad, it.words, it.since = "", "", now
			v.waiting[at] = it
		}
	}
}

// settle shows what waits for nothing any more, and returns when to look again;
// zero: not before something comes.
func (v *view) settle(now time.Time) (wake time.Time) {
	order := make([]delta.Ref, 0, len(v.waiting))
	for at := range v.waiting {
		order = append(order, at)
	}
	slices.SortFunc(order, func(a, b delta.Ref) int {
		return cmp.Or(cmp.Compare(showRank[a.Type], showRank[b.Type]), cmp.Compare(a.Type, b.Type), cmp.Compare(a.Name, b.Name))
	})
	for _, at := range order {
		it := v.waiting[at]
		until := it.since.Add(hold)
		if now.Before(until) && !v.closed(it.latest) {
			if wake.IsZero() || until.Before(wake) {
				wake = until
			}
			continue
		}
		delete(v.waiting, at)
		v.show(at, it, it.latest)
	}
	v.freeze()
	return wake
}

// closed says whether all that r names is shown.
func (v *view) closed(r *delta.Resource) bool {
	for _, at := range r.Refs() {
		if it := v.items[at]; it == nil || it.shown == nil {
			return false
		}
	}
	return true
}

func (v *view) show(at delta.Ref, it *item, r *delta.Resource) {
	if it.shown == r {
		return
	}
	it.shown = r
	key := at.Type + "/" + at.Name
	if r == nil {
		v.dirty[key] = nil
		v.shown(at.Type, at.Name, nil)
		return
	}
	v.shown(at.Type, at.Name, r.Body.GetValue())
	v.dirty[key] = &delta.Group{Key: key, Resources: []*delta.Resource{r}}
}

// freeze makes the next set if anything changed.
func (v *view) freeze() {
	if len(v.dirty) == 0 {
		return
	}
	keys := make([]string, 0, len(v.dirty))
	for k := range v.dirty {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	next := make([]*delta.Group, 0, len(v.groups)+len(keys))
	i := 0
	for _, k := range keys {
		for i < len(v.groups) && v.groups[i].Key < k {
			next = append(next, v.groups[i])
			i++
		}
		if i < len(v.groups) && v.groups[i].Key == k {
			i++
		}
		if g := v.dirty[k]; g != nil {
			next = append(next, g)
		}
	}
	next = append(next, v.groups[i:]...)
	v.groups, v.set = next, &delta.Set{Groups: next}
	clear(v.dirty)
}
