package plan

import (
	"fmt"
	"net/netip"
	"testing"

	"github.com/kerege/kerege/mesh"
)

func benchPart(i int, h mesh.Health) mesh.Part {
	name := fmt.Sprint("svc-", i)
	p := mesh.Part{Source: "consul", Scope: name}
	for j := range 2 {
		p.Instances = append(p.Instances, mesh.Instance{
			Service: mesh.ServiceName(name), ID: fmt.Sprint(name, "-", j), Source: "consul", Node: fmt.Sprint("node-", i, "-", j), Health: h,
			Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), byte(j)}), 8080),
		})
	}
	return p
}

// benchMesh is S services; web-0 to web-9 call svc-0, and other proxies, that do not, call svc-1.
func benchMesh(services, others int) (*mesh.Snapshot, *Compiler) {
	file := mesh.Part{Source: "file", Mesh: &mesh.Config{MTLS: mesh.MTLSPermissive},
		Intentions: []mesh.Intention{intention("svc-0", allow("web")), intention("svc-1", allow("other"))}}
	parts := []mesh.Part{file}
	for i := range services {
		parts = append(parts, benchPart(i, mesh.Healthy))
	}
	snap, _ := mesh.Merge(parts...)
	c := NewCompiler(snap)
	for i := range 10 {
		c.Add(Node{ID: mesh.ProxyID{Service: "web", Node: fmt.Sprint("w", i)}})
	}
	for i := range others {
		c.Add(Node{ID: mesh.ProxyID{Service: "other", Node: fmt.Sprint("o", i)}})
	}
	return snap, c
}

// BenchmarkUpdate is one endpoint's health changing, from With to the dirty
// proxies, of which there are ten. Its cost must not depend on the number of
// services, nor on that of the proxies that do not depend on the change.
func BenchmarkUpdate(b *testing.B) {
	for _, s := range []int{100, 10000} {
		for _, others := range []int{0, 5000} {
			b.Run(fmt.Sprintf("S=%d/others=%d", s, others), func(b *testing.B) {
				snap, c := benchMesh(s, others)
				b.ReportAllocs()
				for i := 0; b.Loop(); i++ {
					next, keys := snap.With(benchPart(0, mesh.Health(1+i%2)))
					snap = next
					if dirty := c.Update(snap, keys); len(dirty) != 10 {
						b.Fatalf("%d dirty proxies", len(dirty))
					}
				}
			})
		}
	}
}
