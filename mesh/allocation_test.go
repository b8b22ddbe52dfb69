package mesh

import (
	"net/netip"
	"testing"
)

func TestWhereAnAllocationListens(t *testing.T) {
	own := netip.MustParseAddr("172.26.64.5")
	a := &Allocation{Addrs: []netip.Addr{own}, Ports: []PortMap{{Host: 23456, App: 8080}, {Host: 8080, App: 9090}}}
	for at, want := range map[string]uint16{"10.0.0.2:23456": 8080, "10.0.0.2:8080": 9090, "172.26.64.5:8080": 8080, "10.0.0.2:7000": 7000} {
		if got := (&Instance{Allocation: a}).Application(netip.MustParseAddrPort(at)); got != want {
			t.Errorf("%s is %d inside, not %d", at, got, want)
		}
		addr := netip.MustParseAddrPort(at)
		if got := (&Instance{}).Application(addr); got != addr.Port() {
			t.Errorf("%s is %d where nobody knows", at, got)
		}
	}
}

// What Nomad says is tied to the instances of that name and allocation, also where a
// block takes them under another name, and goes when it is taken back.
func TestAllocationsAreTiedToTheirInstances(t *testing.T) {
	inside := func(s *Snapshot, name ServiceName) (out []uint16) {
		for _, in := range s.Instances(name) {
			out = append(out, in.Application(in.Addr))
		}
		return out
	}
	web := func(id string, port uint16) Instance {
		return Instance{Service: "Legacy", Registered: "Legacy", ID: id, Source: "consul", Node: "n1", Workload: id, Addr: netip.AddrPortFrom(netip.MustParseAddr("10.0.0.2"), port)}
	}
	said := Part{Source: "allocations", Scope: "Legacy", Allocations: []Allocation{{Service: "Legacy", Workload: "a1", Ports: []PortMap{{Host: 23456, App: 8080}, {Host: 23457, App: 1}}}}}
	s, _ := Merge(said,
		Part{Source: "consul", Scope: "Legacy", Instances: []Instance{web("a1", 23456), web("a2", 23457)}},
		Part{Source: "file", Services: []ServiceConfig{{Name: "web", Sources: []SourceRef{{Kind: "consul", Service: "Legacy"}}}}},
		Part{Source: "members", Scope: "web", Members: []Member{{Service: "web", Node: "n1", Workload: "a1", Ports: []uint16{8080}}}})
	if got := inside(s, "web"); len(got) != 2 || got[0] != 8080 || got[1] != 23457 {
		t.Fatalf("%v", got)
	}
	if !s.Instances("web")[0].In {
		t.Error("its member speaks of the port inside, and it is not in")
	}
	if p := s.Service("web").Ports; len(p) != 1 || p[0].Number != 8080 {
		t.Errorf("callers have it at %v", p)
	}
	said.Allocations[0].Ports[0].App = 8081 // which is nothing to what was said
	if got := inside(s, "web"); got[0] != 8080 {
		t.Errorf("a snapshot changed: %v", got)
	}
	if s, _ = s.With(said); inside(s, "web")[0] != 8081 {
		t.Errorf("said anew: %v", inside(s, "web"))
	}
	s, keys := s.With(Part{Source: "allocations", Scope: "Legacy"})
	if got := inside(s, "web"); len(got) != 2 || got[0] != 23456 || s.Instances("web")[0].In {
		t.Errorf("taken back: %v", got)
	}
	if len(keys) == 0 {
		t.Error("and nobody is told")
	}
}
