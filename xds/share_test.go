package xds

import (
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/plan"
	"github.com/kerege/kerege/xds/delta"
)

func find(s *delta.Set, key string) *delta.Group {
	for _, g := range s.Groups {
		if g.Key == key {
			return g
		}
	}
	return nil
}

func TestWhatProxiesShareHasOneAddress(t *testing.T) {
	tr := NewTranslator()
	up := testUpstream("api", 8080, mesh.ProtocolHTTP, at("10.0.0.1:8080"))
	policy := testPolicy("web", 80, "edge")
	translate := func(service string, u *plan.Upstream) *delta.Set {
		s, err := tr.Translate(testProxy(service, []*plan.Inbound{testInbound("web", 80, 80, mesh.ProtocolHTTP, policy)}, u))
		if err != nil {
			t.Error(err)
		}
		return s
	}
	var wg sync.WaitGroup
	sets := make([]*delta.Set, 8)
	for i := range sets {
		wg.Go(func() { sets[i] = translate("web", up) })
	}
	wg.Wait()
	for _, s := range sets {
		for _, key := range []string{"base", "inbound/80", "upstream/api"} {
			if g := find(s, key); g == nil || g != find(sets[0], key) {
				t.Errorf("group %s is not the same group for all: %p", key, g)
			}
		}
	}
	other := translate("other", up)
	if find(other, "upstream/api") != find(sets[0], "upstream/api") {
		t.Error("two services do not share an upstream")
	}
	if find(other, "base") == find(sets[0], "base") {
		t.Error("two services share what names its service")
	}
	changed := testUpstream("api", 8080, mesh.ProtocolHTTP, at("10.0.0.2:8080"))
	if find(translate("web", changed), "upstream/api") == find(sets[0], "upstream/api") {
		t.Error("a changed upstream gives the old group")
	}
}

func TestTheTranslatorForgetsWhatNobodyHolds(t *testing.T) {
	tr := NewTranslator()
	for range 100 {
		in := testInbound("web", 80, 80, mesh.ProtocolUnknown, testPolicy("web", 80, "edge"))
		if _, err := tr.Translate(testProxy("web", []*plan.Inbound{in}, testUpstream("api", 8080, mesh.ProtocolHTTP, at("10.0.0.1:8080")))); err != nil {
			t.Fatal(err)
		}
	}
	for range 100 {
		runtime.GC()
		tr.mu.Lock()
		n := len(tr.upstreams) + len(tr.policies) + len(tr.groups)
		tr.mu.Unlock()
		if n == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond) // cleanups run when the runtime likes
	}
	t.Errorf("it still holds %d upstreams, %d policies, %d groups", len(tr.upstreams), len(tr.policies), len(tr.groups))
}
