package nomad

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/nomad/api"
	"golang.org/x/time/rate"

	"github.com/kerege/kerege/mesh"
)

const (
	pollers  = 8
	pollRate = 50               // requests a second
	polling  = 3 * time.Second  // for one answer, which comes from the client itself
	postpone = 15 * time.Second // of a client that did not answer
	waiting  = 60               // polls of a check without a result before it counts as unknown
	starting = 120              // polls, a second apart, of an application that has not come up yet
)

// checks polls the results of the allocations that have checks until ctx ends.
func (l *life) checks(ctx context.Context) {
	slow := rate.NewLimiter(pollRate, pollers)
	for ctx.Err() == nil {
		due := make(chan string)
		var asking sync.WaitGroup
		for range pollers {
			asking.Go(func() {
				for id := range due {
					l.poll(ctx, id)
				}
			})
		}
		for _, id := range l.due() {
			if slow.Wait(ctx) != nil {
				break
			}
			due <- id
		}
		close(due)
		asking.Wait()
		sleep(ctx, nil, 700*time.Millisecond+rand.N(300*time.Millisecond))
	}
}

// due are the allocations to poll, those that wait longest first.
func (l *life) due() []string {
	now := l.opt.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	var list []string
	for id, a := range l.allocs {
		if a.checked && !a.gone && !now.Before(a.due) {
			list = append(list, id)
		}
	}
	slices.SortFunc(list, func(a, b string) int { return l.allocs[a].due.Compare(l.allocs[b].due) })
	return list
}

// poll asks for one allocation's checks and notes their results.
func (l *life) poll(ctx context.Context, id string) {
	l.mu.Lock()
	a := l.allocs[id]
	if a == nil || l.opt.Now().Before(a.due) {
		l.mu.Unlock()
		return
	}
	q := &api.QueryOptions{Namespace: a.Namespace}
	l.mu.Unlock()
	var got api.AllocCheckStatuses
	_, err := l.queryIn(ctx, polling, "/v1/client/allocation/"+id+"/checks", &got, q)
	now := l.opt.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if a = l.allocs[id]; a == nil || ctx.Err() != nil {
		return
	}
	if err != nil {
		l.log.Debug("checks could not be polled; what they said last counts", "allocation", id, "node", a.NodeName, "error", err)
		for _, other := range l.allocs {
			if other.NodeID == a.NodeID && other.checked {
				other.due = now.Add(postpone + rand.N(postpone/5))
			}
		}
		return
	}
	results, first := outcome(got), slices.ContainsFunc(slices.Collect(maps.Values(got)), func(c api.AllocCheckStatus) bool { return c.Status == "pending" })
	if len(got) == 0 { // asked before the client had set its checks up
		first, results = a.results == nil || a.waited > 0, a.results
		if a.waited < waiting && first {
			results = a.unready()
		}
	}
	every := l.opt.CheckEvery
	if a.waited++; first && a.waited <= waiting {
		every = min(every, time.Second)
	}
	if !first {
		a.waited = 0
	} else if a.waited > waiting && len(got) == 0 {
		results = map[string]mesh.Health{}
	}
	// The first results of most are failures: the application starts after its
	// sidecar, and callers wait for it.
	a.up = a.up || !first && good(results)
	if a.polls++; !a.up && a.polls <= starting {
		every = min(every, time.Second)
	}
	a.due = now.Add(every*9/10 + rand.N(every/10))
	if maps.Equal(results, a.results) && a.results != nil {
		return
	}
	a.results = results
	for k := range a.services {
		l.redo(k.name)
	}
}

// good tells whether all checks pass.
func good(results map[string]mesh.Health) bool {
	for _, h := range results {
		if h != mesh.Healthy {
			return false
		}
	}
	return true
}

// outcome is the worst of each service's checks. One that waits for its first
// result has not shown that the application is up.
func outcome(got api.AllocCheckStatuses) map[string]mesh.Health {
	out := map[string]mesh.Health{}
	for _, c := range got {
		h := mesh.Unhealthy
		if c.Status == "success" {
			h = mesh.Healthy
		}
		out[c.Service] = max(out[c.Service], h)
	}
	return out
}

// unready holds every service of the allocation that has checks.
func (a *alloc) unready() map[string]mesh.Health {
	out := map[string]mesh.Health{}
	for name, s := range a.specs {
		if len(s.Checks) > 0 {
			out[name] = mesh.Unhealthy
		}
	}
	return out
}
