package xds

import (
	"net/netip"
	"testing"

	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/plan"
	"github.com/kerege/kerege/xds/delta"
)

// What checks a proxy has, and where they come from, is part of its own listeners,
// whether those are made from nothing or from the plan before.
func TestChecksChangeTheListener(t *testing.T) {
	tr := NewTranslator()
	in := []*plan.Inbound{testInbound("web", 8080, 80, mesh.ProtocolHTTP, testPolicy("web", 80, "edge"))}
	with := func(bridge string, checks ...mesh.Probe) *plan.Proxy {
		p := testProxy("web", in)
		p.Node.Bridge, p.Checks = []netip.Addr{netip.MustParseAddr(bridge)}, checks
		return p
	}
	health := mesh.Probe{Port: 8080, Method: "GET", Path: "/health"}
	versions := map[string]int{}
	var kept []*delta.Set
	before := with("172.26.64.1")
	was, err := tr.Translate(before)
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range []*plan.Proxy{
		before, with("172.26.64.1", health), with("172.26.64.9", health), with("172.26.64.1", mesh.Probe{Port: 8080, Method: "GET", Path: "/ready"}),
		with("172.26.64.1", mesh.Probe{Port: 8080, Method: "PUT", Path: "/health"}), with("172.26.64.1", mesh.Probe{Port: 8080, Method: "GET", Path: "/health", From: netip.MustParseAddr("10.0.0.2")}),
	} {
		fresh, err := tr.Translate(p)
		if err != nil {
			t.Fatal(err)
		}
		next, err := tr.Next(before, was, p)
		if err != nil {
			t.Fatal(err)
		}
		kept = append(kept, fresh, next)
		v := listenerVersion(t, fresh)
		if listenerVersion(t, next) != v {
			t.Errorf("%d: made from the plan before it is another", i)
		}
		if other, same := versions[v]; same {
			t.Errorf("%d has the listener of %d", i, other)
		}
		versions[v] = i
	}
	// The bridge alone is another.
	first, moved := with("172.26.64.1", health), with("172.26.64.9", health)
	was, err = tr.Translate(first)
	if err != nil {
		t.Fatal(err)
	}
	if next, err := tr.Next(first, was, moved); err != nil || listenerVersion(t, next) == listenerVersion(t, was) {
		t.Errorf("the bridge moved, and the listener did not: %v", err)
	}
	_ = kept // what is made stays made while somebody has it
}

func listenerVersion(t *testing.T, s *delta.Set) string {
	t.Helper()
	for _, g := range s.Groups {
		for _, r := range g.Resources {
			if r.Name == inboundName {
				return r.Version
			}
		}
	}
	t.Fatal("there is no inbound listener")
	return ""
}
