package xds

import (
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/plan"
)

// TestNextIsTranslate lets a plan wander and compares what follows from the plan
// before with what is made of the plan alone.
func TestNextIsTranslate(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		tr := NewTranslator()
		services := []string{"a", "api", "b", "zoo"}
		out := map[string]*plan.Upstream{}
		in := []*plan.Inbound{testInbound("web", 80, 80, mesh.ProtocolHTTP, testPolicy("web", 80, "edge"))}
		before := testProxy("web", in)
		was, err := tr.Translate(before)
		if err != nil {
			t.Fatal(err)
		}
		for step := range 30 {
			p := *before
			switch name := services[r.IntN(len(services))]; r.IntN(7) {
			case 0:
				delete(out, name)
			case 1:
				p.Inbound = []*plan.Inbound{testInbound("web", 80, 80, mesh.ProtocolHTTP, testPolicy("web", 80, name))}
			case 2:
				p.Inbound = append(slices.Clone(p.Inbound), testInbound("web", uint16(81+step), 80, mesh.ProtocolTCP, testPolicy("web", 80, name)))
			case 3:
				p.Outside.Mode = mesh.OutboundAny
			case 4:
				p.Node.Explicit = nil
				if p.Node.OutboundPort = 15001 - p.Node.OutboundPort; p.Node.OutboundPort == 0 && r.IntN(2) == 0 {
					p.Node.Explicit = []plan.Explicit{{Service: "api", Port: 8080, LocalPort: 9000}}
				}
			default:
				out[name] = testUpstream(name, 8080, mesh.ProtocolHTTP, at("10.0.0.1:8080"))
			}
			p.Outbound = nil
			for _, name := range sortedKeys(out) {
				p.Outbound = append(p.Outbound, out[name])
			}
			got, err := tr.Next(before, was, &p)
			if err != nil {
				t.Fatal(err)
			}
			want, err := tr.Translate(&p)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got.Groups, want.Groups) {
				t.Fatalf("seed %d, step %d: %v, want %v", seed, step, got.Groups, want.Groups)
			}
			if same, err := tr.Next(&p, got, &p); same != got || err != nil {
				t.Fatalf("the same plan gives another set, %v", err)
			}
			before, was = &p, got
		}
	}
}

// TestOneChangeIsOneResource holds that a group made anew keeps what is equal in it.
func TestOneChangeIsOneResource(t *testing.T) {
	tr := NewTranslator()
	one, err := tr.Translate(testProxy("web", nil, testUpstream("api", 8080, mesh.ProtocolHTTP, at("10.0.0.1:8080"))))
	if err != nil {
		t.Fatal(err)
	}
	two, err := tr.Translate(testProxy("web", nil, testUpstream("api", 8080, mesh.ProtocolHTTP, at("10.0.0.2:8080"))))
	if err != nil {
		t.Fatal(err)
	}
	was, is := find(one, "upstream/api").Resources, find(two, "upstream/api").Resources
	for i, r := range is {
		if other := r.Type == "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"; (r != was[i]) != other {
			t.Errorf("%s %s: the same address is %t", r.Type, r.Name, r == was[i])
		}
	}
}
