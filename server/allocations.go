package server

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/kerege/kerege/durable"
	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/registry/nomad"
)

const (
	factsAskers  = 4                      // questions at a time
	factsPace    = 20 * time.Millisecond  // between two of one asker
	factsReread  = 10 * time.Minute       // a job's checks may change in place
	factsFailing = 10 * time.Second       // of one whose checks fail: its job may have others by now
	factsRetry   = 500 * time.Millisecond // of one whose network is not up; doubles up to factsReread
	factsForget  = 10 * time.Minute       // after the last instance of an allocation is gone
)

// allocations keeps, for each allocation that is placed on a node that asked, what
// only Nomad knows of it. What Nomad said last counts while it cannot be asked, and
// across restarts.
type allocations struct {
	log  hclog.Logger
	ask  func(ctx context.Context, id string) (nomad.Facts, error)
	put  func(...mesh.Part)
	snap func() *mesh.Snapshot
	file string
	now  func() time.Time
	poke chan struct{} // capacity 1

	mu    sync.Mutex
	rows  map[string]*allocationRow // by allocation
	swept time.Time
}

// allocationRow is one allocation. It is under allocations.mu.
type allocationRow struct {
	Facts    *nomad.Facts                `json:"facts"`    // nil: not known
	Services map[string]mesh.ServiceName `json:"services"` // by the name it is registered under: the mesh's

	due    time.Time // of the next question
	asked  time.Time
	failed int       // questions in a row that did not settle it
	gone   time.Time // no instance was of it since; zero: there is one
}

// openAllocations reads the file and puts what it says.
func openAllocations(a *allocations) *allocations {
	a.rows, a.poke = map[string]*allocationRow{}, make(chan struct{}, 1)
	text, err := os.ReadFile(a.file)
	if err == nil {
		err = json.Unmarshal(text, &a.rows)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		a.log.Error("what nomad said of allocations is not known; it is asked again", "error", err)
		a.rows = map[string]*allocationRow{}
	}
	maps.DeleteFunc(a.rows, func(_ string, r *allocationRow) bool { return r == nil || r.Services == nil })
	a.say(a.services())
	return a
}

// want takes in what is placed on a node.
func (a *allocations) want(list []*mesh.Instance) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now, news := a.now(), map[string]bool{}
	for _, in := range list {
		if in.Workload == "" || mesh.CheckNode(in.Workload) != nil {
			continue
		}
		r := a.rows[in.Workload]
		if r == nil {
			r = &allocationRow{Services: map[string]mesh.ServiceName{}, due: now}
			a.rows[in.Workload] = r
		}
		r.gone = time.Time{}
		name := cmp.Or(in.Registered, string(in.Service))
		if _, known := r.Services[name]; !known {
			r.Services[name] = in.Service
			news[name] = r.Facts != nil
		}
		if again := r.asked.Add(factsFailing); in.Health == mesh.Unhealthy && r.failed == 0 && again.Before(r.due) {
			r.due = again
		}
	}
	maps.DeleteFunc(news, func(_ string, known bool) bool { return !known })
	a.say(news)
	select {
	case a.poke <- struct{}{}:
	default:
	}
}

// run asks until ctx ends.
func (a *allocations) run(ctx context.Context, ready <-chan struct{}) error {
	select {
	case <-ready:
	case <-ctx.Done():
		return nil
	}
	for ctx.Err() == nil {
		a.round(ctx)
		a.sweep()
		t := time.NewTimer(a.wait())
		select {
		case <-ctx.Done():
		case <-t.C:
		case <-a.poke:
		}
		t.Stop()
	}
	return nil
}

// wait is the time until a question is due.
func (a *allocations) wait() time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	next := a.now().Add(time.Minute)
	for _, r := range a.rows {
		if r.due.Before(next) {
			next = r.due
		}
	}
	return max(next.Sub(a.now()), factsPace)
}

// round asks all that is due.
func (a *allocations) round(ctx context.Context) {
	a.mu.Lock()
	now := a.now()
	var due []string
	for id, r := range a.rows {
		if !now.Before(r.due) {
			due = append(due, id)
		}
	}
	slices.SortFunc(due, func(x, y string) int { return cmp.Or(a.rows[x].due.Compare(a.rows[y].due), cmp.Compare(x, y)) })
	a.mu.Unlock()
	if len(due) == 0 {
		return
	}
	ids := make(chan string)
	var asking sync.WaitGroup
	for range factsAskers {
		asking.Go(func() {
			for id := range ids {
				f, err := a.ask(ctx, id)
				if ctx.Err() == nil {
					a.answered(id, f, err)
				}
				select {
				case <-ctx.Done():
				case <-time.After(factsPace):
				}
			}
		})
	}
	for _, id := range due {
		select {
		case ids <- id:
		case <-ctx.Done():
		}
	}
	close(ids)
	asking.Wait()
}

// answered notes an answer. One that is no news changes only when it is asked again.
func (a *allocations) answered(id string, f nomad.Facts, err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := a.rows[id]
	if r == nil {
		return
	}
	r.asked = a.now()
	again := factsReread
	if err == nil && f.Settled {
		r.failed = 0
	} else {
		again = min(factsRetry<<min(r.failed, 12), factsReread)
		r.failed++
	}
	r.due = r.asked.Add(again*4/5 + rand.N(again/5))
	switch {
	case errors.Is(err, nomad.ErrNone):
		return // it may be a registration that outlived it: nothing is known
	case err != nil:
		if r.failed == 1 {
			a.log.Warn("what nomad knows of an allocation could not be asked; what it said last counts", "allocation", id, "error", err)
		}
		return
	case r.Facts != nil && sameFacts(*r.Facts, f):
		return
	}
	r.Facts = &f
	names := map[string]bool{}
	for name := range r.Services {
		names[name] = true
	}
	a.save()
	a.say(names)
}

func sameFacts(a, b nomad.Facts) bool {
	return a.Settled == b.Settled && slices.Equal(a.Addrs, b.Addrs) && slices.Equal(a.Ports, b.Ports) && slices.Equal(a.Probes, b.Probes)
}

// sweep forgets the allocations that no instance is of any more.
func (a *allocations) sweep() {
	snap := a.snap()
	a.mu.Lock()
	defer a.mu.Unlock()
	now, names := a.now(), map[string]bool{}
	if now.Sub(a.swept) < time.Minute {
		return
	}
	a.swept = now
	for id, r := range a.rows {
		here := false
		for _, svc := range r.Services {
			here = here || slices.ContainsFunc(snap.Instances(svc), func(in *mesh.Instance) bool { return in.Workload == id })
		}
		switch {
		case here:
			r.gone = time.Time{}
		case r.gone.IsZero():
			r.gone = now
		case now.Sub(r.gone) > factsForget:
			for name := range r.Services {
				names[name] = true
			}
			delete(a.rows, id)
		}
	}
	if len(names) > 0 {
		a.save()
		a.say(names)
	}
}

func (a *allocations) services() map[string]bool {
	names := map[string]bool{}
	for _, r := range a.rows {
		for name := range r.Services {
			names[name] = true
		}
	}
	return names
}

// save writes the file before anybody hears of what is in it. mu is held.
func (a *allocations) save() {
	known := maps.Clone(a.rows)
	maps.DeleteFunc(known, func(_ string, r *allocationRow) bool { return r.Facts == nil })
	text, err := json.Marshal(known)
	if err == nil {
		err = durable.WriteFile(a.file, text)
	}
	if err != nil {
		a.log.Error("what nomad says of allocations is not on disk; after a restart it is asked again", "error", fmt.Errorf("writing %s: %w", a.file, err))
	}
}

// say puts all that is known of some services. mu is held, but at the start.
func (a *allocations) say(names map[string]bool) {
	if len(names) == 0 {
		return
	}
	parts := map[string]*mesh.Part{}
	for name := range names {
		parts[name] = &mesh.Part{Source: "allocations", Scope: name}
	}
	for _, id := range slices.Sorted(maps.Keys(a.rows)) {
		r := a.rows[id]
		for name := range r.Services {
			if p := parts[name]; p != nil && r.Facts != nil {
				p.Allocations = append(p.Allocations, mesh.Allocation{Service: name, Workload: id,
					Addrs: r.Facts.Addrs, Ports: r.Facts.Ports, Probes: r.Facts.Probes})
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(parts)) {
		a.put(*parts[name])
	}
}
