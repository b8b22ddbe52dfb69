package nomad

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/hashicorp/nomad/api"
	"golang.org/x/time/rate"

	"github.com/kerege/kerege/mesh"
)

// listing is one answer to the question for all names.
type listing struct {
	verdict
	names map[key]bool
	index uint64
}

// list follows the names of a namespace's services until ctx ends. Where there
// is no event stream, each of its answers has every service read.
func (l *life) list(ctx context.Context, sp *space) {
	slow := rate.NewLimiter(2, 3) // each costs Nomad a walk over all registrations
	var index uint64
	faults, idle := 0, 0
	for slow.Wait(ctx) == nil {
		wait := min(l.opt.Reread*4/5+rand.N(l.opt.Reread/5), 5*time.Minute)
		began := time.Now()
		got := l.askNames(ctx, sp.name, index, wait)
		if ctx.Err() != nil {
			return
		}
		if got.ok() && l.shorter(sp, got) || got.ok() && index == 0 {
			if v := l.whole(ctx, sp.name); !v.ok() {
				got.verdict = v
			}
		}
		l.take(ctx, sp, got)
		if !got.ok() {
			faults, index = faults+1, 0 // the next answer comes at once and says whether all is well
			if sleep(ctx, l.recovered(), pause(faults-1)) {
				faults = 1
			}
			continue
		}
		faults = 0
		before := index
		if index = nextIndex(before, got.index); index == 0 { // a Nomad restored from a backup tells nothing of what that changed
			l.mu.Lock()
			l.pokeAll(sp)
			l.mu.Unlock()
		}
		idle++
		if got.index > before && got.index > 1 || time.Since(began) >= wait/2 {
			idle = 0
		}
		if idle > 2 {
			sleep(ctx, nil, pause(idle-3))
		}
	}
}

func (l *life) askNames(ctx context.Context, namespace string, index uint64, wait time.Duration) listing {
	q := &api.QueryOptions{Namespace: namespace, WaitIndex: index}
	limit := patience
	if index > 0 {
		q.WaitTime, limit = wait, wait+wait/10+l.margin
	}
	ctx, stop := context.WithTimeout(ctx, limit)
	defer stop()
	found, meta, err := l.client.Services().List(q.WithContext(ctx))
	got := listing{verdict: classify("the list of services of namespace "+mesh.Quote(namespace), meta, err), names: map[key]bool{}}
	for _, ns := range found {
		for _, s := range ns.Services {
			got.names[key{ns.Namespace, s.ServiceName}] = true
		}
	}
	if meta != nil {
		got.index = meta.LastIndex
	}
	return got
}

// whole asks whether the token may see every namespace: Nomad leaves the others
// out of a list of "*" without a word, and refuses a namespace that does not
// exist to a token that is not good for all.
func (l *life) whole(ctx context.Context, namespace string) verdict {
	if namespace != "*" {
		return fine
	}
	var list []*api.ServiceRegistrationListStub
	name := fmt.Sprintf("kerege-%016x", rand.Uint64())
	meta, err := l.query(ctx, "/v1/services", &list, &api.QueryOptions{Namespace: name})
	v := classify("the list of services of all namespaces", meta, err)
	if v.state == mesh.SourceDenied {
		return verdict{mesh.SourceFiltered, `Nomad leaves out of the list of services the namespaces that the token may not read; it needs namespace "*" { policy = "read" }, or namespace in the settings names one.`}
	}
	return v
}

func (l *life) shorter(sp *space, got listing) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for k := range sp.names {
		if !got.names[k] {
			return true
		}
	}
	return false
}

// take brings a list in. Names are added from a filtered list too; none goes by
// a list: a service goes when two reads of it are empty.
func (l *life) take(ctx context.Context, sp *space, got listing) {
	now := l.opt.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if !got.ok() && sp.state != got.state {
		l.log.Warn("an answer of nomad changes nothing", "state", string(got.state), "why", got.why)
	}
	sp.note(got.verdict, now)
	if !got.ok() && got.state != mesh.SourceFiltered {
		return
	}
	for _, k := range slices.SortedFunc(maps.Keys(got.names), key.compare) {
		if l.services[k] == nil || !sp.streaming {
			l.touch(ctx, sp, k)
		}
	}
	if !got.ok() {
		return
	}
	for k := range sp.names {
		if !got.names[k] && l.services[k] != nil {
			l.services[k].poke()
		}
	}
	sp.names = got.names
	if !sp.known {
		sp.known = true
		l.redo(slices.Collect(maps.Keys(l.names))...)
	}
}

// touch has a service read, for the first time or again. l.mu is held.
func (l *life) touch(ctx context.Context, sp *space, k key) {
	svc := l.services[k]
	if svc == nil {
		svc = newService(k, sp)
		l.services[k] = svc
		l.names[k.name] = append(l.names[k.name], k)
		l.all.Go(func() { l.follow(ctx, svc) })
	}
	svc.poke()
}

// redo has names composed again. l.mu is held.
func (l *life) redo(names ...string) {
	for _, n := range names {
		l.dirty[n] = true
	}
	select {
	case l.changed <- struct{}{}:
	default:
	}
}
