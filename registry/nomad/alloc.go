package nomad

import (
	"context"
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/kerege/kerege/mesh"
)

// allocation is what is read of one; the rest of Nomad's answer is skipped.
type allocation struct {
	ID, Namespace, NodeID, NodeName, TaskGroup, ClientStatus, DesiredStatus string

	ModifyIndex, AllocModifyIndex uint64 // the latter moves only when servers change it

	DeploymentStatus *struct{ Canary bool }
	Job              *struct {
		TaskGroups []struct {
			Name     string
			Services []spec
			Tasks    []struct{ Services []spec }
		}
	}
}

// spec is a service block of a job.
type spec struct {
	Name, Provider   string
	Meta, CanaryMeta map[string]string
	Checks           []json.RawMessage
}

// alloc is what is known of one allocation. All of it is under life.mu.
type alloc struct {
	allocation
	specs    map[string]spec // by service
	checked  bool            // a service of its group has checks
	services map[key]bool    // that it registers
	seen     uint64          // newest registration it was read for
	stale    bool
	gone     bool // Nomad does not know it any more, although a registration speaks of it

	results map[string]mesh.Health // by service, of its checks
	due     time.Time              // of the next poll
	waited  int                    // polls that found a check waiting for its first result
	polls   int                    // answers so far
	up      bool                   // all its checks have passed once
}

// node is what is read of a client.
type node struct {
	Name string
	Meta map[string]string
	read time.Time
}

func (a *alloc) canary() bool { return a.DeploymentStatus != nil && a.DeploymentStatus.Canary }

// meta is what Nomad would register with Consul.
func (a *alloc) meta(service string) map[string]string {
	s := a.specs[service]
	from := s.Meta
	if a.canary() && len(s.CanaryMeta) > 0 {
		from = s.CanaryMeta
	}
	var out map[string]string
	for k, v := range from {
		if strings.Contains(v, "${") {
			continue
		}
		if out == nil {
			out = map[string]string{}
		}
		out[k] = v
	}
	return out
}

func (a *alloc) healthOf(service string) mesh.Health {
	switch {
	case ended(a.ClientStatus):
		return mesh.Unhealthy
	case a.DesiredStatus == "stop" || a.DesiredStatus == "evict":
		return mesh.Draining
	}
	return a.results[service]
}

// read takes what a fresh answer says.
func (a *alloc) read(got allocation) {
	a.allocation, a.stale, a.gone = got, false, false
	a.specs, a.checked = map[string]spec{}, false
	if got.Job == nil {
		return
	}
	for _, s := range got.groupServices() {
		if s.Provider == "nomad" {
			a.specs[s.Name] = s
			a.checked = a.checked || len(s.Checks) > 0
		}
	}
	a.Job = nil
}

// describe reads what registrations leave out, as far as it is not known. force
// reads it again.
func (l *life) describe(ctx context.Context, k key, regs []*api.ServiceRegistration, force bool) verdict {
	allocs, nodes := map[string]uint64{}, map[string]bool{}
	l.mu.Lock()
	for _, r := range regs {
		a := l.allocs[r.AllocID]
		if a == nil || a.stale || force || r.ModifyIndex > a.seen {
			allocs[r.AllocID] = max(allocs[r.AllocID], r.ModifyIndex)
		} else {
			a.services[k] = true
		}
		if n := l.nodes[r.NodeID]; n == nil || l.opt.Now().Sub(n.read) > l.opt.Reread {
			nodes[r.NodeID] = true
		}
	}
	l.mu.Unlock()
	var mu sync.Mutex
	v := fine
	var asking sync.WaitGroup
	for _, id := range slices.Sorted(maps.Keys(nodes)) {
		asking.Go(func() { l.readNode(ctx, id) })
	}
	for _, id := range slices.Sorted(maps.Keys(allocs)) {
		asking.Go(func() {
			if got := l.readAlloc(ctx, k, id, allocs[id], force); !got.ok() {
				mu.Lock()
				v = got
				mu.Unlock()
			}
		})
	}
	asking.Wait()
	return v
}

func (l *life) readAlloc(ctx context.Context, k key, id string, seen uint64, force bool) verdict {
	var got allocation
	_, err := l.query(ctx, "/v1/allocation/"+id, &got, &api.QueryOptions{Namespace: k.namespace})
	gone := statusOf(err) == http.StatusNotFound
	if err != nil && !gone {
		return refusal("the allocation "+mesh.Quote(id), err)
	}
	l.mu.Lock()
	a := l.allocs[id]
	if a == nil {
		a = &alloc{services: map[key]bool{}}
		l.allocs[id] = a
	}
	switch {
	case gone:
		a.gone, a.stale = true, false
	case force || got.ModifyIndex >= a.ModifyIndex:
		a.read(got)
	}
	a.services[k], a.seen = true, max(a.seen, seen)
	ask := a.checked && a.results == nil && !a.gone
	l.mu.Unlock()
	if ask { // before it is said: an application that is not up yet is not healthy
		l.poll(ctx, id)
	}
	return fine
}

// readNode leaves a node's meta empty where the token may not read it.
func (l *life) readNode(ctx context.Context, id string) {
	n := node{read: l.opt.Now()}
	_, err := l.query(ctx, "/v1/node/"+id, &n, &api.QueryOptions{})
	l.mu.Lock()
	defer l.mu.Unlock()
	switch old := l.nodes[id]; {
	case err == nil:
		l.nodes[id] = &n
	case old == nil:
		l.nodes[id] = &node{read: n.read}
		l.log.Debug("a node could not be read; its meta is left out", "node", id, "error", err)
	default:
		old.read = n.read
	}
}

// forget takes a service from the allocations that no longer register it.
// life.mu is held.
func (l *life) forget(k key, was, is []*api.ServiceRegistration) {
	have := map[string]bool{}
	for _, r := range is {
		have[r.AllocID] = true
	}
	for _, r := range was {
		a := l.allocs[r.AllocID]
		if a == nil || have[r.AllocID] {
			continue
		}
		if delete(a.services, k); len(a.services) == 0 {
			delete(l.allocs, r.AllocID)
		}
	}
}
