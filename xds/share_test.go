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
		n := len(tr.upstreams) + len(tr.policies) + len(tr.groups) + len(tr.bases) + len(tr.inbounds) + len(tr.latest)
		tr.mu.Unlock()
		if n == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond) // cleanups run when the runtime likes
	}
	t.Errorf("it still holds %d upstreams, %d policies, %d groups, %d bases, %d inbounds", len(tr.upstreams), len(tr.policies), len(tr.groups), len(tr.bases), len(tr.inbounds))
}

// The listeners of a proxy know nothing of its rules: a change of them, or of who
// it calls, must leave every listener as it is.
func TestNoListenerChangesWithTheRules(t *testing.T) {
	tr := NewTranslator()
	translate := func(rules ...string) *delta.Set {
		in := testInbound("web", 80, 80, mesh.ProtocolUnknown, testPolicy("web", 80, rules...))
		s, err := tr.Translate(testProxy("web", []*plan.Inbound{in}, testUpstream("api", 8080, mesh.ProtocolHTTP, at("10.0.0.1:8080"))))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	one, two := translate("edge"), translate("edge", "other")
	if find(one, "base") != find(two, "base") {
		t.Error("the listeners changed")
	}
	if find(one, "inbound/80") == find(two, "inbound/80") {
		t.Error("the rules did not change")
	}
}

func TestListenersChangeWithWhatTheyAreMadeOf(t *testing.T) {
	tr := NewTranslator()
	seen := map[*delta.Group]string{}
	for name, change := range map[string]func(*plan.Proxy){
		"nothing":       func(*plan.Proxy) {},
		"service":       func(p *plan.Proxy) { p.Outside.Caller = "other" },
		"mode":          func(p *plan.Proxy) { p.Outside.Mode = mesh.OutboundAny },
		"no IPv6":       func(p *plan.Proxy) { p.Node.NoIPv6 = true },
		"inbound port":  func(p *plan.Proxy) { p.Node.InboundPort++ },
		"outbound port": func(p *plan.Proxy) { p.Node.OutboundPort++ },
		"number":        func(p *plan.Proxy) { p.Inbound[0].Number++ },
		"port":          func(p *plan.Proxy) { p.Inbound[0].Port++ },
		"protocol":      func(p *plan.Proxy) { p.Inbound[0].Protocol = mesh.ProtocolTCP },
		"mtls":          func(p *plan.Proxy) { p.Inbound[0].MTLS = mesh.MTLSPermissive },
		"plaintext":     func(p *plan.Proxy) { p.Inbound[0].Policy.Plaintext, p.Inbound[0].MTLS = true, mesh.MTLSPermissive },
		"domain":        func(p *plan.Proxy) { p.Inbound[0].Policy.TrustDomain = "other.example" },
	} {
		p := testProxy("web", []*plan.Inbound{testInbound("web", 80, 80, mesh.ProtocolUnknown, testPolicy("web", 80, "edge"))})
		change(p)
		set, err := tr.Translate(p)
		if err != nil {
			t.Fatal(err)
		}
		fresh, err := NewTranslator().Translate(p)
		if err != nil {
			t.Fatal(err)
		}
		base := find(set, "base")
		for i, r := range base.Resources {
			if r.Version != find(fresh, "base").Resources[i].Version {
				t.Errorf("%s: %s is not what a fresh translator makes", name, r.Name)
			}
		}
		if other, ok := seen[base]; ok {
			t.Errorf("%s and %s have the same listeners", name, other)
		}
		seen[base] = name
	}
}

func BenchmarkTranslateOneChangedUpstream(b *testing.B) {
	tr := NewTranslator()
	var ups []*plan.Upstream
	for i := range 10 {
		u := testUpstream("api"+string(rune('a'+i)), 8080, mesh.ProtocolHTTP, at("10.0.0.1:8080"), at("10.0.0.2:8080"))
		ups = append(ups, u)
	}
	p := testProxy("web", []*plan.Inbound{testInbound("web", 80, 80, mesh.ProtocolHTTP, testPolicy("web", 80, "edge"))}, ups...)
	for b.Loop() {
		if _, err := tr.Translate(p); err != nil {
			b.Fatal(err)
		}
	}
}
