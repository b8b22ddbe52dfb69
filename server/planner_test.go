package server

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/plan"
	"github.com/kerege/kerege/xds/delta"
)

// fakeHub is a mesh that the test writes.
type fakeHub struct {
	changes, ready chan struct{}

	mu   sync.Mutex
	snap *mesh.Snapshot
	keys []mesh.Key
}

func newFakeHub() *fakeHub {
	return &fakeHub{changes: make(chan struct{}, 1), ready: make(chan struct{}), snap: &mesh.Snapshot{}}
}

func (h *fakeHub) Changes() <-chan struct{} { return h.changes }
func (h *fakeHub) Ready() <-chan struct{}   { return h.ready }
func (h *fakeHub) Snapshot() *mesh.Snapshot {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.snap
}

func (h *fakeHub) Take() (*mesh.Snapshot, []mesh.Key) {
	h.mu.Lock()
	defer h.mu.Unlock()
	keys := h.keys
	h.keys = nil
	return h.snap, keys
}

func (h *fakeHub) say(parts ...mesh.Part) *mesh.Snapshot {
	h.mu.Lock()
	defer h.mu.Unlock()
	snap, keys := h.snap.With(parts...)
	h.snap, h.keys = snap, append(h.keys, keys...)
	select {
	case h.changes <- struct{}{}:
	default:
	}
	return snap
}

// post is the mailboxes of the proxies.
type post struct {
	mu   sync.Mutex
	sets map[string]*delta.Set
	got  []string
}

func (p *post) Set(id string, set *delta.Set) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.sets == nil {
		p.sets = map[string]*delta.Set{}
	}
	p.sets[id] = set
	p.got = append(p.got, id)
}

// take is who was sent something since the last take, sorted.
func (p *post) take() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	got := p.got
	p.got = nil
	slices.Sort(got)
	return got
}

func (p *post) has(id, resource string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := flat(p.sets[id])[resource]
	return ok
}

func allow(to string, from ...string) mesh.Intention {
	return mesh.Intention{Label: to, Rules: []mesh.Permission{{Action: mesh.ActionAllow, From: from}}}
}

func captured(service, node string) plan.Node {
	return plan.Node{ID: mesh.ProxyID{Service: mesh.ServiceName(service), Node: node}, InboundPort: 15006, OutboundPort: 15001}
}

// planned runs a test in a bubble with a planner on a fake mesh.
func planned(t *testing.T, body func(h *fakeHub, p *planner, out *post, told *[]*mesh.Snapshot)) {
	synctest.Test(t, func(t *testing.T) {
		h, out, told := newFakeHub(), &post{}, []*mesh.Snapshot(nil)
		p := newPlanner(hclog.NewNullLogger(), out, func(s *mesh.Snapshot, _ []mesh.Key) { told = append(told, s) })
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.run(ctx, h) }()
		body(h, p, out, &told)
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestNoProxyIsAnsweredBeforeTheMeshIsKnown(t *testing.T) {
	planned(t, func(h *fakeHub, p *planner, out *post, told *[]*mesh.Snapshot) {
		h.say(registered("file", "web", instance("web", "vm-1", "10.0.0.1:80")))
		p.open(captured("web", "vm-1"))
		synctest.Wait()
		if got := out.take(); got != nil || *told != nil {
			t.Fatalf("before the hub is ready %v were sent something", got)
		}
		close(h.ready)
		synctest.Wait()
		if got := out.take(); !slices.Equal(slices.Compact(got), []string{"web/vm-1"}) || len(*told) == 0 {
			t.Errorf("after it is ready: %v, told %d", got, len(*told))
		}
	})
}

func TestOnlyThoseWhomAChangeConcernsAreSentSomething(t *testing.T) {
	planned(t, func(h *fakeHub, p *planner, out *post, _ *[]*mesh.Snapshot) {
		intentions := mesh.Part{Source: "file", Intentions: []mesh.Intention{allow("api", "web")}}
		h.say(intentions, registered("consul", "web", instance("web", "vm-1", "10.0.0.1:80")),
			registered("consul", "api", instance("api", "vm-2", "10.0.0.2:8080")), registered("consul", "bank", instance("bank", "vm-3", "10.0.0.3:90")),
			vip("web", "240.0.0.1"), vip("api", "240.0.0.2"), vip("bank", "240.0.0.3"),
			mesh.Part{Source: "members", Scope: "api", Members: []mesh.Member{{Service: "api", Node: "vm-2"}, {Service: "api", Node: "vm-4"}}})
		close(h.ready)
		var pushed [][]mesh.ProxyID
		p.mu.Lock()
		p.pushed = func(at time.Time, ids []mesh.ProxyID) {
			if time.Since(at) < 0 {
				t.Error("a snapshot from the future")
			}
			pushed = append(pushed, ids)
		}
		p.mu.Unlock()
		for _, n := range []plan.Node{captured("web", "vm-1"), captured("api", "vm-2"), captured("bank", "vm-3")} {
			p.open(n)
		}
		synctest.Wait()
		if got := out.take(); !slices.Equal(got, []string{"api/vm-2", "bank/vm-3", "web/vm-1"}) {
			t.Fatalf("the first time %v", got)
		}
		if !out.has("web/vm-1", "Cluster api:8080") || out.has("bank/vm-3", "Cluster api:8080") {
			t.Error("who may call api knows it, and nobody else")
		}
		h.say(registered("consul", "api", instance("api", "vm-2", "10.0.0.2:8080"), instance("api", "vm-4", "10.0.0.4:8080")))
		synctest.Wait()
		if got := out.take(); !slices.Equal(got, []string{"web/vm-1"}) {
			t.Errorf("one more api concerns %v, want its caller only", got)
		}
		if n := len(pushed); n == 0 || len(pushed[n-1]) != 1 || pushed[n-1][0].Service != "web" {
			t.Errorf("pushed hears of %v", pushed)
		}
		if got := p.nodes(); len(got) != 3 {
			t.Errorf("%d proxies", len(got))
		}
		p.close(captured("web", "vm-1").ID)
		synctest.Wait()
		if got := p.nodes(); len(got) != 2 {
			t.Errorf("%d proxies after one left", len(got))
		}
		h.say(registered("consul", "api", instance("api", "vm-2", "10.0.0.2:8080")))
		synctest.Wait()
		if got := out.take(); got != nil {
			t.Errorf("%v were sent something after the caller had left", got)
		}
		// It left and is there again before anybody looked: it is served.
		p.open(captured("web", "vm-1"))
		p.close(captured("web", "vm-1").ID)
		p.open(captured("web", "vm-1"))
		synctest.Wait()
		if got := p.nodes(); len(got) != 3 || !slices.Contains(out.take(), "web/vm-1") {
			t.Errorf("%d proxies after one came back", len(got))
		}
	})
}

func TestSettleWaitsForTheSnapshot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		out := &post{}
		p := newPlanner(hclog.NewNullLogger(), out, func(*mesh.Snapshot, []mesh.Key) {})
		p.open(captured("web", "vm-1"))
		p.listen()
		out.take()
		snap, keys := (&mesh.Snapshot{}).With(registered("consul", "web", instance("web", "vm-1", "10.0.0.1:80")))
		settled := make(chan bool, 1)
		go func() {
			p.settle(t.Context(), snap)
			settled <- len(out.take()) == 1
		}()
		time.Sleep(50 * time.Millisecond)
		select {
		case <-settled:
			t.Error("settled before the snapshot was taken in")
		default:
		}
		p.update(snap, keys)
		if !<-settled {
			t.Error("settled before the mailbox had it")
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		begin := time.Now()
		p.settle(ctx, &mesh.Snapshot{}) // one that never comes
		if time.Since(begin) != time.Second {
			t.Error("settle does not end with its context")
		}
	})
}
