package mesh

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// lived is a mesh and its hub's table of what is served, as the hub keeps it.
type lived struct {
	snap  *Snapshot
	parts map[string]Part
}

func (l *lived) say(parts ...Part) {
	for _, p := range parts {
		l.parts[partKey(p)] = p
	}
	l.snap, _ = l.snap.With(parts...)
	if now, ok := l.snap.Served("api"); ok {
		p := Part{Source: "served", Scope: "api", Served: []Served{now}}
		l.parts[partKey(p)] = p
		l.snap, _ = l.snap.With(p)
	}
}

// at is an instance of api on the node that its address's last byte says.
func at(node byte, port uint16, proto Protocol) Instance {
	return Instance{Service: "api", Source: "consul", ID: fmt.Sprintf("api-%d-%d", node, port), Node: fmt.Sprintf("vm-%d", node),
		Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, node}), port), Protocol: proto}
}

func joined(nodes ...byte) Part {
	p := Part{Source: "members", Scope: "api"}
	for _, n := range nodes {
		p.Members = append(p.Members, Member{Service: "api", Node: fmt.Sprintf("vm-%d", n)})
	}
	return p
}

func registered(list ...Instance) Part { return Part{Source: "consul", Scope: "api", Instances: list} }

// Nobody moves the port or the protocol that callers have by registering one
// instance more, on a host that has joined or not.
func TestOneMoreInstanceMovesNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		draw := func() Instance {
			in := at(byte(rapid.IntRange(1, 4).Draw(t, "node")), one[uint16](t, 8080, 9999, 23001), one[Protocol](t, "", "http", "tcp"))
			in.PortName = one(t, "", "http", "admin")
			if one(t, true, false) {
				in.Workload = "alloc"
			}
			return in
		}
		l := &lived{&Snapshot{}, map[string]Part{}}
		config := Part{Source: "file", Mesh: &Config{MTLS: one(t, MTLSStrict, MTLSPermissive)}}
		if one(t, true, false) {
			config.Services = []ServiceConfig{{Name: "api", Ports: one(t, nil, []Port{{Number: 80}}, []Port{{Name: "http", Number: 8080}, {Name: "admin", Number: 9999}})}}
		}
		members := joined(1, 2)
		members.Members = append(members.Members, Member{Service: "api", Node: "vm-1", Workload: "alloc"}, Member{Service: "api", Node: "vm-3", Workload: "alloc"})
		l.say(config, members)
		var list []Instance
		for range rapid.IntRange(1, 5).Draw(t, "rounds") {
			list = nil
			for range rapid.IntRange(0, 3).Draw(t, "n") {
				list = append(list, draw())
			}
			l.say(registered(list...))
		}
		served, ok := l.snap.Served("api")
		before := l.snap.Service("api")
		if !ok {
			return // no caller had an instance
		}
		were := l.snap.Instances("api")
		had := func(p Port) bool { // callers had an instance that answers there
			return slices.ContainsFunc(were, func(in *Instance) bool {
				_, ok := before.EndpointPort(in, p)
				return ok && (in.In || before.MTLS != MTLSStrict)
			})
		}
		l.say(registered(append(slices.Clone(list), draw())...))
		after := l.snap.Service("api")
		for i, p := range before.Ports {
			if len(after.Ports) != len(before.Ports) || after.Ports[i].Number != p.Number || had(p) && after.Ports[i].Protocol != p.Protocol {
				t.Fatalf("one more instance made of %+v (%+v) %+v", before.Ports, served, after.Ports)
			}
		}
		if after.Protocol != before.Protocol {
			t.Fatalf("one more instance made %q of the protocol %q", after.Protocol, before.Protocol)
		}
		var parts []Part
		for _, p := range l.parts {
			parts = append(parts, p)
		}
		full, _ := Merge(parts...)
		if d := cmp.Diff(reads(full), reads(l.snap), readOpts); d != "" {
			t.Fatalf("what came step by step differs from the merge (-merge +steps):\n%s", d)
		}
	})
}

func TestThePortThatIsServedStays(t *testing.T) {
	l := &lived{&Snapshot{}, map[string]Part{}}
	is := func(when string, port uint16, proto Protocol, warned ...string) {
		t.Helper()
		svc := l.snap.Service("api")
		if svc == nil {
			t.Fatalf("%s: there is no service", when)
		}
		if svc.Ports[0].Number != port || svc.Ports[0].Protocol != proto {
			t.Errorf("%s: port %d, protocol %q; want %d and %q", when, svc.Ports[0].Number, svc.Ports[0].Protocol, port, proto)
		}
		var text string
		for _, c := range l.snap.Conflicts() {
			text += c.What + "\n"
		}
		if len(warned) == 0 && text != "" {
			t.Errorf("%s: warned of\n%s", when, text)
		}
		for _, w := range warned {
			if !strings.Contains(text, w) {
				t.Errorf("%s: no warning has %q:\n%s", when, w, text)
			}
		}
	}
	good := []Instance{at(1, 8080, "http"), at(2, 8080, "http")}
	l.say(joined(1, 2), registered(good...))
	is("at the start", 8080, "http")
	l.say(registered(append(slices.Clone(good), at(9, 9999, "tcp"))...))
	is("with an odd one that is held", 8080, "http", `"api-9-9999" on "vm-9"`, `service "api" { port "main" { port = … } }`, "says protocol tcp")
	l.say(joined(1, 2, 9))
	is("with an odd one that has joined", 8080, "http", `"api-9-9999" on "vm-9"`)
	l.say(registered(at(9, 9999, "tcp")))
	is("when all that serve agree on another", 9999, "tcp")
	l.say(registered())
	if l.snap.Service("api") != nil {
		t.Error("a service without a word about it is there")
	}
	l.say(registered(append(slices.Clone(good), at(9, 9999, "tcp"))...))
	is("when both are back", 9999, "tcp", `"api-1-8080" on "vm-1" (and 1 more)`)
	l.say(Part{Source: "file", Services: []ServiceConfig{{Name: "api", Tuning: Tuning{Protocol: "http"}, Ports: []Port{{Number: 8080}}}}})
	is("once it is declared", 8080, "http")
}

// Nomad draws ports by lot: no deployment moves the service's.
func TestDynamicPortsMoveNothing(t *testing.T) {
	l := &lived{&Snapshot{}, map[string]Part{}}
	alloc := func(port uint16) Instance {
		in := at(1, port, "")
		in.Source, in.Workload = "nomad", "alloc"
		return in
	}
	m := joined()
	m.Members = []Member{{Service: "api", Node: "vm-1", Workload: "alloc"}}
	l.say(m)
	for _, list := range [][]Instance{{alloc(23001)}, {alloc(23001), alloc(31999)}, {alloc(31999)}, {}, {alloc(20000), alloc(32000)}} {
		l.say(Part{Source: "nomad", Scope: "api", Instances: list})
		if svc := l.snap.Service("api"); svc != nil && svc.Ports[0].Number != DefaultPort || len(l.snap.Conflicts()) > 0 {
			t.Errorf("with %d instances: %+v, %v", len(list), svc.Ports, l.snap.Conflicts())
		}
	}
	l.say(Part{Source: "nomad", Scope: "api", Instances: []Instance{alloc(8080)}})
	if n := l.snap.Service("api").Ports[0].Number; n != 8080 {
		t.Errorf("a static port of Nomad's: %d", n)
	}
}
