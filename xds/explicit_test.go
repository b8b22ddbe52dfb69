package xds

import (
	"runtime"
	"testing"

	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/plan"
)

// A service at a loopback port more is a listener more, while the listeners of
// before are still somebody's.
func TestExplicitListenersAreThoseOfThePlan(t *testing.T) {
	tr := NewTranslator()
	up := testUpstream("api", 8080, mesh.ProtocolHTTP, at("10.0.0.1:8080"))
	listeners := func(explicit ...plan.Explicit) int {
		p := testProxy("web", nil, up)
		p.Node = plan.Node{ID: p.Node.ID, Explicit: explicit}
		s, err := tr.Translate(p)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { runtime.KeepAlive(s) })
		return len(find(s, "base").Resources)
	}
	api := plan.Explicit{Service: "api", Port: 8080, LocalPort: 5001}
	stock := plan.Explicit{Service: "stock", Port: 80, LocalPort: 5002}
	if none, one, two := listeners(), listeners(api), listeners(api, stock); none != 0 || one != 1 || two != 2 {
		t.Errorf("%d, %d and %d listeners for 0, 1 and 2 services", none, one, two)
	}
}
