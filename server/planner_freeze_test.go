package server

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/kerege/kerege/api"
	"github.com/kerege/kerege/mesh"
)

// A change that was on its way when it froze is taken at the thaw, and a proxy that
// comes meanwhile is given what was so before.
func TestAChangeThatMeetsAFreeze(t *testing.T) {
	h, out := newFakeHub(), &post{}
	p := newPlanner(hclog.NewNullLogger(), out, func(*mesh.Snapshot, []mesh.Key) {})
	p.frost = openFrost(filepath.Join(t.TempDir(), "frozen.json"))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- p.run(ctx, h) }()
	defer func() {
		cancel()
		noError(t, <-done)
	}()
	soon := func(what string, ok func() bool) {
		t.Helper()
		for begin := time.Now(); !ok(); time.Sleep(time.Millisecond) {
			if time.Since(begin) > 5*time.Second {
				t.Fatalf("never: %s", what)
			}
		}
	}
	h.say(registered("consul", "web", instance("web", "vm-1", "10.0.0.1:80")), registered("consul", "api", instance("api", "vm-2", "10.0.0.2:8080")), vip("api", "240.0.0.2"))
	close(h.ready)
	soon("the first snapshot is taken", func() bool { return p.told() != nil && len(h.changes) == 0 })
	before := p.told()

	p.turning.Lock()
	after := h.say(mesh.Part{Source: "file", Intentions: []mesh.Intention{allow("api", "web")}})
	soon("the planner is about to take it", func() bool { return len(h.changes) == 0 })
	err := p.frost.set(&api.Frozen{})
	p.turning.Unlock()
	noError(t, err)

	p.open(captured("web", "vm-1"))
	soon("who comes is answered", func() bool { return len(out.take()) > 0 })
	if p.told() != before || out.has("web/vm-1", "Cluster api:8080") {
		t.Error("a change was taken while it was frozen")
	}
	noError(t, p.frost.set(nil))
	soon("it is taken at the thaw", func() bool { return p.told() == after && out.has("web/vm-1", "Cluster api:8080") })
}
