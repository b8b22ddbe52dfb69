package server

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/kerege/kerege/mesh"
)

func TestAPlannerThatDoesNotFollowIsNotAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		hub, held := newFakeHub(), make(chan struct{}, 9)
		p := newPlanner(hclog.NewNullLogger(), &post{}, func(*mesh.Snapshot, []mesh.Key) { <-held })
		now := func() *mesh.Snapshot { hub.mu.Lock(); defer hub.mu.Unlock(); return hub.snap }
		check := func() error {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			return p.follows(ctx, now)
		}
		part := registered("consul", "api", instance("api", "vm-2", "10.0.0.2:8080"))
		hub.say(part)
		if check() == nil {
			t.Error("nobody plans, and it is alive")
		}
		held <- struct{}{}
		close(hub.ready)
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); _ = p.run(ctx, hub) }()
		synctest.Wait()
		if err := check(); err != nil {
			t.Errorf("it follows: %v", err)
		}
		hub.say(vip("api", "240.0.0.1"))
		if check() == nil {
			t.Error("its planner hangs, and it is alive")
		}
		close(held)
		synctest.Wait()
		if err := check(); err != nil {
			t.Errorf("it goes on: %v", err)
		}
		cancel()
		<-done
	})
	p := newPlanner(hclog.NewNullLogger(), &post{}, func(*mesh.Snapshot, []mesh.Key) {})
	p.mu.Lock() // as by a plan that does not end
	defer p.mu.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if p.follows(ctx, p.compiler.Snapshot) == nil {
		t.Error("its lock is held for ever, and it is alive")
	}
}

// A real server answers for itself; one whose registry no longer takes anything in does not.
func TestAServerIsAlive(t *testing.T) {
	r := newRig(t).start()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := r.s.Alive(ctx); err != nil {
		t.Error(err)
	}
	noError(t, r.stop())
	r.stop = nil
	r.s.hub.Put(mesh.Part{Source: "test"})
	late, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if r.s.Alive(late) == nil {
		t.Error("its registry's writer has ended, and it is alive")
	}
}
