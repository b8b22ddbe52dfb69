//go:build e2e

package consul_test

import (
	"context"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/kerege/kerege/registry"
	"github.com/kerege/kerege/registry/consul"
)

// hub runs a hub on a Consul until the returned function stops it.
func hub(t *testing.T, a *agent, dir string) (*registry.Hub, func()) {
	t.Helper()
	src, err := consul.New(consul.Options{Address: a.addr})
	if err != nil {
		t.Fatal(err)
	}
	h := registry.New(registry.Options{DataDir: dir, Grace: 2 * time.Second})
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- h.Run(ctx, src) }()
	stopped := false
	stop := func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
	t.Cleanup(stop)
	return h, stop
}

func ready(h *registry.Hub) func() bool {
	return func() bool {
		select {
		case <-h.Ready():
			return true
		default:
			return false
		}
	}
}

// A10 and A18 through the hub, from a real catalog.
func TestRealConsulThroughTheHub(t *testing.T) {
	a := boot(t, "127.0.0.1", ports(t, "127.0.0.1", 3), nil)
	a.ready()
	if _, err := a.Catalog().Register(&api.CatalogRegistration{Node: "ext-1", Address: "10.0.0.1"}, nil); err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		a.entry("api", i)
	}
	dir := t.TempDir()
	h, stop := hub(t, a, dir)
	within(t, 10*time.Second, "ready", ready(h))
	has := func(h *registry.Hub, n int) func() bool {
		return func() bool { return len(h.Snapshot().Instances("api")) == n }
	}
	if !has(h, 4)() {
		t.Fatalf("%d instances", len(h.Snapshot().Instances("api")))
	}
	vip := h.Snapshot().Service("api").VIP4

	if _, err := a.Catalog().Deregister(&api.CatalogDeregistration{Node: "ext-1"}, nil); err != nil {
		t.Fatal(err)
	}
	within(t, 5*time.Second, "the hold", func() bool { return len(h.Guard()) == 1 })
	stays(t, 2*time.Second, "four instances in the hold", has(h, 4))
	if !h.Confirm("api") {
		t.Error("nothing to confirm")
	}
	within(t, time.Second, "zero, confirmed", has(h, 0))

	if _, err := a.Catalog().Register(&api.CatalogRegistration{Node: "ext-1", Address: "10.0.0.1"}, nil); err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		a.entry("api", i)
	}
	within(t, 5*time.Second, "four again", has(h, 4))
	stop()
	a.kill()

	h, stop = hub(t, a, dir)
	began := time.Now()
	within(t, 10*time.Second, "ready from the last-good file", ready(h))
	if d := time.Since(began); d < 1500*time.Millisecond {
		t.Errorf("ready after %v, before the hold", d)
	}
	if !has(h, 4)() || h.Snapshot().Service("api").VIP4 != vip {
		t.Errorf("%d instances at %v, were at %v", len(h.Snapshot().Instances("api")), h.Snapshot().Service("api").VIP4, vip)
	}
	fresh, stopFresh := hub(t, a, t.TempDir())
	stays(t, 4*time.Second, "not ready without a file", func() bool { return !ready(fresh)() })
	a.start()
	a.ready()
	within(t, 10*time.Second, "ready when Consul is back", ready(fresh))
	within(t, 10*time.Second, "four from Consul", has(fresh, 4))
	stopFresh()
	stop()
}
