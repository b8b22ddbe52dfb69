package server

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/registry/nomad"
)

// teller is a Nomad that says what a test says, and the mesh that hears of it.
type teller struct {
	facts map[string]nomad.Facts
	err   error
	asked map[string]int
	snap  *mesh.Snapshot
}

func (n *teller) Facts(_ context.Context, id string) (nomad.Facts, error) {
	n.asked[id]++
	f, known := n.facts[id]
	if n.err == nil && !known {
		return f, nomad.ErrNone
	}
	return f, n.err
}

func (n *teller) put(list ...mesh.Part) { n.snap, _ = n.snap.With(list...) }

func (n *teller) place(health mesh.Health, ids ...string) {
	p := mesh.Part{Source: "consul", Scope: "web"}
	for i, id := range ids {
		p.Instances = append(p.Instances, mesh.Instance{Service: "web", ID: "web-" + id, Source: "consul", Node: "n1", Workload: id, Health: health,
			Addr: netip.AddrPortFrom(netip.MustParseAddr("10.0.0.2"), uint16(23456+i))})
	}
	n.put(p)
}

func (n *teller) open(file string) *allocations {
	return openAllocations(&allocations{log: hclog.NewNullLogger(), ask: n.Facts, put: n.put, snap: func() *mesh.Snapshot { return n.snap }, file: file, now: time.Now})
}

// ports are what callers' connections to the first instance meet inside.
func (n *teller) port() uint16 {
	in := n.snap.Node("n1")[0]
	return in.Application(in.Addr)
}

func mapped(app uint16) nomad.Facts {
	return nomad.Facts{Settled: true, Addrs: []netip.Addr{netip.MustParseAddr("172.26.64.5")}, Ports: []mesh.PortMap{{Host: 23456, App: app}}}
}

func TestAllocationsAreAskedForOnceAndRemembered(t *testing.T) {
	file := filepath.Join(t.TempDir(), "allocations.json")
	n := &teller{facts: map[string]nomad.Facts{"a1": mapped(8080)}, asked: map[string]int{}, snap: &mesh.Snapshot{}}
	synctest.Test(t, func(t *testing.T) {
		n.place(mesh.Healthy, "a1")
		a := n.open(file)
		ctx, stop := context.WithCancel(t.Context())
		ready, done := make(chan struct{}), make(chan error)
		go func() { done <- a.run(ctx, ready) }()
		close(ready)
		a.want(n.snap.Node("n1"))
		synctest.Wait()
		if n.port() != 8080 || n.asked["a1"] != 1 {
			t.Fatalf("%d after %v", n.port(), n.asked)
		}
		for range 100 {
			a.want(n.snap.Node("n1"))
		}
		time.Sleep(5 * time.Minute)
		if n.asked["a1"] != 1 {
			t.Errorf("a running allocation was asked for %d times", n.asked["a1"])
		}
		// Its checks fail: its job may have others by now.
		n.place(mesh.Unhealthy, "a1")
		changed := mapped(8080)
		changed.Probes = []mesh.Probe{{Port: 8080, Method: "GET", Path: "/new"}}
		n.facts["a1"] = changed
		a.want(n.snap.Node("n1"))
		time.Sleep(time.Second)
		if n.asked["a1"] != 2 || !slices.Equal(n.snap.Node("n1")[0].Allocation.Probes, changed.Probes) {
			t.Errorf("asked %d times: %+v", n.asked["a1"], n.snap.Node("n1")[0].Allocation)
		}
		// Nomad goes away, forgets, comes back empty: what it said counts.
		for _, err := range []error{nomad.ErrAway, nil} {
			n.err = err
			delete(n.facts, "a1")
			time.Sleep(30 * time.Minute)
			if n.port() != 8080 {
				t.Errorf("unknown became %d", n.port())
			}
		}
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	n.snap = &mesh.Snapshot{}
	n.place(mesh.Healthy, "a1")
	n.err = nomad.ErrAway
	again := n.open(file)
	if n.port() != 8080 {
		t.Error("a restart forgot")
	}
	if err := os.WriteFile(file, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	n.snap = &mesh.Snapshot{}
	n.open(file) // a damaged file is no end
	_ = again
}

func TestAnAllocationWhoseNetworkIsNotUpIsAskedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		young := mapped(8080)
		young.Addrs, young.Settled = nil, false
		n := &teller{facts: map[string]nomad.Facts{"a1": young}, asked: map[string]int{}, snap: &mesh.Snapshot{}}
		n.place(mesh.Healthy, "a1", "over")
		a := n.open(filepath.Join(t.TempDir(), "f"))
		ctx, stop := context.WithCancel(t.Context())
		ready, done := make(chan struct{}), make(chan error)
		go func() { done <- a.run(ctx, ready) }()
		close(ready)
		a.want(n.snap.Node("n1"))
		time.Sleep(2 * time.Second)
		if n.asked["a1"] < 2 {
			t.Errorf("asked %d times", n.asked["a1"])
		}
		n.facts["a1"] = mapped(8080)
		time.Sleep(10 * time.Second)
		if got := n.snap.Node("n1")[0].Allocation; got == nil || len(got.Addrs) != 1 {
			t.Errorf("%+v", got)
		}
		time.Sleep(time.Hour)
		if n.asked["over"] > 30 {
			t.Errorf("one that nomad does not have was asked for %d times in an hour", n.asked["over"])
		}
		n.place(mesh.Healthy)
		time.Sleep(30 * time.Minute)
		if a.mu.Lock(); len(a.rows) != 0 {
			t.Errorf("remembered: %v", a.rows)
		}
		a.mu.Unlock()
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

// Who has many allocations on its nodes has a bounded number of questions under way.
func TestQuestionsAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := &teller{facts: map[string]nomad.Facts{}, asked: map[string]int{}, snap: &mesh.Snapshot{}}
		var ids []string
		for i := range 500 {
			ids = append(ids, fmt.Sprintf("a%d", i))
		}
		n.place(mesh.Healthy, ids...)
		now, most := 0, 0
		a := n.open(filepath.Join(t.TempDir(), "f"))
		a.ask = func(context.Context, string) (nomad.Facts, error) {
			a.mu.Lock()
			now++
			most = max(most, now)
			a.mu.Unlock()
			time.Sleep(time.Millisecond)
			a.mu.Lock()
			now--
			a.mu.Unlock()
			return nomad.Facts{}, nomad.ErrAway
		}
		a.want(n.snap.Node("n1"))
		began := time.Now()
		a.round(t.Context())
		if most > factsAskers || time.Since(began) < 500/factsAskers*factsPace {
			t.Errorf("%d at a time, 500 in %s", most, time.Since(began))
		}
	})
}
