package relay

import (
	"testing"

	"github.com/kerege/kerege/e2e/xdsim"
	"github.com/kerege/kerege/xds/delta"
)

// Two Envoys of one proxy, while one takes over from the other: both are told what
// changes, a server hears of an acceptance when both have accepted, and of a
// refusal by either; one that leaves is missed by nobody.
func TestTwoEnvoysOfOneProxy(t *testing.T) {
	l := newLab(t)
	l.startServer()
	l.startRelay()
	l.want(group("a", 1))
	bad := route("a", 3).Version
	first := l.envoy(xdsim.Mode{}, nil)
	l.holds(first, xdsim.Route, "a")
	second := l.envoy(xdsim.Mode{Nack: func(typ, name, version string) string {
		if version == bad {
			return "the newer one knows better"
		}
		return ""
	}}, nil)
	l.holds(second, xdsim.Route, "a")
	l.until("two", func() bool { return l.p.Status().Envoys == 2 })
	l.want(group("a", 2), group("b", 1))
	for _, e := range []*xdsim.Client{first, second} {
		l.holds(e, xdsim.Listener, "a", "b")
		l.until("the change", func() bool { return e.Held(xdsim.Route)["a"] == route("a", 2).Version })
	}
	l.want(group("a", 3), group("b", 1))
	l.until("the refusal of one at the server", func() bool { return l.serverState(delta.TypeRoute).State == delta.Nacked })
	l.want(group("a", 2), group("b", 1))
	l.until("accepted again", func() bool { return l.serverState(delta.TypeRoute).State != delta.Nacked })
	first.Close()
	l.until("one", func() bool { return l.p.Status().Envoys == 1 })
	l.want(group("a", 2), group("b", 2))
	l.until("the change at the one that is left", func() bool { return second.Held(xdsim.Route)["b"] == route("b", 2).Version })
	l.until("synced", func() bool { return l.row().Unacked.IsZero() })
	l.fine(first, second)
}
