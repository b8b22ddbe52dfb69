package mesh

import (
	"net/netip"
	"slices"
	"testing"
	"time"
)

func TestWithoutNode(t *testing.T) {
	on := func(id, node string, last byte) Instance {
		return Instance{Service: "api", ID: id, Node: node, Source: "consul", Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, last}), 80)}
	}
	registered := Part{Source: "consul", Scope: "api", Instances: []Instance{on("a", "vm-1", 1), on("b", "vm-2", 2)}}
	in := func(nodes ...string) Part {
		p := Part{Source: "members", Scope: "api"}
		for _, n := range nodes {
			p.Members = append(p.Members, Member{Service: "api", Node: n})
		}
		return p
	}
	before, _ := Merge(registered, in("vm-1", "vm-2"), Part{Source: "ca", Bundle: []byte("roots")})
	mark := Mark("vm-2", time.Time{})
	after, keys := before.WithoutNode("vm-2", []string{mark})
	want, _ := Merge(registered, in("vm-1"), Part{Source: "ca", Bundle: []byte("roots"), Away: []string{mark}})
	if d := Diff(want, after); len(d) != 0 {
		t.Errorf("%v differ", d)
	}
	if len(keys) == 0 || !slices.Equal(keys, Diff(before, after)) {
		t.Errorf("keys %v", keys)
	}
	if len(Diff(before, mustSame(before.WithoutNode("vm-3", nil)))) != 0 {
		t.Error("a node of which nothing is in makes a difference")
	}
}

func mustSame(s *Snapshot, _ []Key) *Snapshot { return s }
