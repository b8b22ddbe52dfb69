package plan

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/kerege/kerege/mesh"
)

// An allocation's inbound ports are those inside, callers get the host's, and what
// the host asks of its captured ports is let in.
func TestAllocationsAreCalledAtTheHostAndListenInside(t *testing.T) {
	host := netip.MustParseAddr("10.0.0.2")
	health := mesh.Probe{Port: 8080, Method: "GET", Path: "/health", From: host}
	bridge := mesh.Probe{Port: 8080, Method: "GET", Path: "/bridge"}
	snap, conflicts := mesh.Merge(
		mesh.Part{Source: "consul", Scope: "web", Instances: []mesh.Instance{
			{Service: "web", ID: "1", Source: "consul", Node: "n1", Workload: "a1", Addr: netip.AddrPortFrom(host, 23456)},
			{Service: "web", ID: "2", Source: "consul", Node: "n1", Workload: "a2", Addr: netip.AddrPortFrom(host, 23457)},
		}},
		mesh.Part{Source: "members", Scope: "web", Members: []mesh.Member{{Service: "web", Node: "n1", Workload: "a1", Ports: []uint16{8080}}}},
		mesh.Part{Source: "allocations", Scope: "web", Allocations: []mesh.Allocation{
			{Service: "web", Workload: "a1", Ports: []mesh.PortMap{{Host: 23456, App: 8080}}, Probes: []mesh.Probe{bridge, health, {Port: 9000, Method: "GET", Path: "/"}}},
			{Service: "web", Workload: "a2", Ports: []mesh.PortMap{{Host: 23457, App: 8080}}, Probes: []mesh.Probe{{Port: 8080, Method: "GET", Path: "/other"}}},
		}},
	)
	if len(conflicts) > 0 {
		t.Fatal(conflicts)
	}
	n := Node{ID: mesh.ProxyID{Service: "web", Node: "n1", Workload: "a1"}, InboundPort: 15006, Bridge: []netip.Addr{netip.MustParseAddr("172.26.64.1")}}
	p, _ := Compile(NewView(snap), n)
	if len(p.Inbound) != 1 || p.Inbound[0].Number != 8080 || p.Inbound[0].Port != 8080 || !slices.Equal(p.Checks, []mesh.Probe{bridge, health}) {
		t.Errorf("%+v, %+v", p.Inbound, p.Checks)
	}
	for name, c := range map[string]struct {
		change func(*Node)
		want   []mesh.Probe
	}{
		"a bridge that nobody knows":     {func(n *Node) { n.Bridge = nil }, []mesh.Probe{health}},
		"not captured":                   {func(n *Node) { n.InboundPort = 0 }, nil},
		"a workload of the host":         {func(n *Node) { n.ID.Workload = "" }, nil},
		"another node's of the same id":  {func(n *Node) { n.ID.Node = "n2" }, nil},
		"another service of the same id": {func(n *Node) { n.ID.Service = "api" }, nil},
	} {
		m := n
		c.change(&m)
		if p, _ := Compile(NewView(snap), m); !slices.Equal(p.Checks, c.want) {
			t.Errorf("%s: %+v", name, p.Checks)
		}
	}
	c, moved := NewCompiler(snap), n
	c.Add(n)
	moved.Bridge = nil
	c.Add(moved)
	if p, _ := c.Proxy(n.ID); len(p.Node.Bridge) > 0 || len(p.Checks) != 1 {
		t.Errorf("a proxy that came back by another bridge: %+v, %+v", p.Node, p.Checks)
	}
	moved.Bridge = []netip.Addr{netip.MustParseAddr("172.26.65.1")}
	c.Add(n)
	c.Add(moved)
	if p, _ := c.Proxy(n.ID); !slices.Equal(p.Node.Bridge, moved.Bridge) {
		t.Errorf("a proxy that came back by another bridge: %+v", p.Node)
	}
	caller, _ := Compile(NewView(snap), Node{ID: mesh.ProxyID{Service: "edge", Node: "n9"}, Explicit: []Explicit{{Service: "web", Port: 8080, LocalPort: 1}}})
	var at []netip.AddrPort
	for _, g := range caller.Outbound[0].Ports[0].Clusters[0].Endpoints.Groups {
		for _, e := range g.Endpoints {
			at = append(at, e.Addr)
		}
	}
	if !slices.Equal(at, []netip.AddrPort{netip.AddrPortFrom(host, 23456)}) { // a2 is not in, and web is strict
		t.Errorf("callers dial %v", at)
	}
}
