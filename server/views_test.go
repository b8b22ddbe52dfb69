package server

import (
	"maps"
	"net/netip"
	"testing"
	"time"

	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/plan"
	"github.com/kerege/kerege/xds/delta"
	"github.com/kerege/kerege/xds/serve"
)

// instance is one that a registry places on a node.
func instance(service, node, addr string, edit ...func(*mesh.Instance)) mesh.Instance {
	in := mesh.Instance{Service: mesh.ServiceName(service), ID: service + "@" + addr, Node: node, Addr: netip.MustParseAddrPort(addr), Health: mesh.Healthy, Weight: 1}
	for _, e := range edit {
		e(&in)
	}
	return in
}

// registered is all that a source knows of a service.
func registered(source, service string, list ...mesh.Instance) mesh.Part {
	for i := range list {
		list[i].Source = source
	}
	return mesh.Part{Source: source, Scope: service, Instances: list}
}

func vip(service, v4 string) mesh.Part {
	return mesh.Part{Source: "vips", Scope: service, VIPs: []mesh.VIP{{Service: mesh.ServiceName(service), V4: netip.MustParseAddr(v4)}}}
}

// town is a view table that follows a mesh.
type town struct {
	*viewTable
	t    *testing.T
	last *mesh.Snapshot
}

func newTown(t *testing.T, parts ...mesh.Part) *town {
	w := &town{viewTable: newViewTable([]string{"s1:7401"}), t: t, last: &mesh.Snapshot{}}
	w.say(parts...)
	return w
}

// say makes parts known, and says whether the node vm-1 was woken.
func (w *town) say(parts ...mesh.Part) (woken bool) {
	w.t.Helper()
	_, changed := w.View("vm-1")
	snap, keys := w.last.With(parts...)
	w.last = snap
	w.update(snap, keys)
	select {
	case <-changed:
		return true
	default:
		return false
	}
}

func TestANodeIsWokenOnlyByWhatItMayKnow(t *testing.T) {
	web := instance("web", "vm-1", "10.0.0.1:80")
	w := newTown(t, registered("consul", "web", web), vip("web", "240.0.0.1"), mesh.Part{Source: "ca", Bundle: []byte("roots")})
	before, _ := w.View("vm-1")
	if len(before.placement) != 1 || before.placement[0].Service != "web" || before.placement[0].Source != "consul" || len(before.placement[0].Ports) != 1 || before.placement[0].Ports[0] != 80 {
		t.Fatalf("placement %v", before.placement)
	}
	if len(before.names) != 1 || before.names[0].V4 != "240.0.0.1" || before.names[0].Consul || string(before.bundle) != "roots\n" || before.servers[0] != "s1:7401" {
		t.Fatalf("view %+v", before)
	}
	sick := web
	sick.Health = mesh.Unhealthy
	for what, part := range map[string]mesh.Part{
		"health of its own instance":     registered("consul", "web", sick),
		"an instance on another node":    registered("nomad", "web", instance("web", "vm-2", "10.0.0.2:80")),
		"an intention":                   {Source: "file", Intentions: []mesh.Intention{{Label: "web", Rules: []mesh.Permission{{Action: mesh.ActionAllow, From: []string{"web"}}}}}},
		"a setting that no node acts on": {Source: "file", Services: []mesh.ServiceConfig{{Name: "web", Tuning: mesh.Tuning{Protocol: mesh.ProtocolHTTP}}}},
	} {
		if w.say(part) {
			t.Errorf("%s wakes every node", what)
		}
	}
	after, _ := w.View("vm-1")
	if &after.names[0] != &before.names[0] || &after.placement[0] != &before.placement[0] {
		t.Error("what did not change is another slice")
	}

	for _, c := range []struct {
		what string
		part mesh.Part
		see  func(nodeView) bool
	}{
		{"a service that comes to it", registered("consul", "job", instance("job", "vm-1", "10.0.0.1:90", func(in *mesh.Instance) { in.Workload = "alloc-1" })),
			func(v nodeView) bool { return len(v.placement) == 2 && v.placement[0].Workload == "alloc-1" }},
		{"a name's address", vip("job", "240.0.0.2"), func(v nodeView) bool { return len(v.names) == 2 && v.names[0].V4 == "240.0.0.2" }},
		{"the roots", mesh.Part{Source: "ca", Bundle: []byte("new roots")}, func(v nodeView) bool { return string(v.bundle) == "new roots\n" }},
		{"a second port that is declared", mesh.Part{Source: "file", Services: []mesh.ServiceConfig{{Name: "web", Ports: []mesh.Port{{Name: "http", Number: 80}, {Name: "admin", Number: 81}}}}},
			func(v nodeView) bool {
				return len(v.placement) == 2 && len(v.placement[1].Ports) == 2 && v.placement[1].Ports[1] == 81
			}},
		{"a service that goes", mesh.Part{Source: "consul", Scope: "job"}, func(v nodeView) bool { return len(v.placement) == 1 }},
	} {
		if !w.say(c.part) {
			t.Errorf("%s wakes nobody", c.what)
		}
		if v, _ := w.View("vm-1"); !c.see(v) {
			t.Errorf("%s is not in the view: %v %v", c.what, v.placement, v.names)
		}
	}
	if v, _ := w.View("vm-2"); len(v.placement) != 1 {
		t.Errorf("another node's placement: %v", v.placement)
	}
	if v, _ := w.View("vm-9"); len(v.placement) != 0 || len(v.names) == 0 {
		t.Errorf("a node on which nothing is placed: %+v", v)
	}
}

// A Consul name leads into the mesh only once an instance that Consul has is in.
func TestConsulNamesFollowMembership(t *testing.T) {
	member := func(service string, nodes ...string) mesh.Part {
		p := mesh.Part{Source: "members", Scope: service}
		for _, n := range nodes {
			p.Members = append(p.Members, mesh.Member{Service: mesh.ServiceName(service), Node: n})
		}
		return p
	}
	flags := func(w *town) map[string]bool {
		v, _ := w.View("vm-1")
		m := map[string]bool{}
		for _, n := range v.names {
			m[n.Service] = n.Consul
		}
		return m
	}
	w := newTown(t, registered("consul", "web", instance("web", "vm-1", "10.0.0.1:80")), vip("web", "240.0.0.1"),
		registered("file", "db", instance("db", "vm-2", "10.0.0.2:5432")), vip("db", "240.0.0.2"))
	if f := flags(w); f["web"] || f["db"] {
		t.Errorf("nobody is in: %v", f)
	}
	if !w.say(member("web", "vm-1"), member("db", "vm-2")) {
		t.Error("nobody is told")
	}
	if f := flags(w); !f["web"] || f["db"] {
		t.Errorf("web is in and from Consul, db is in and from a file: %v", f)
	}
	if !w.say(member("web")) || flags(w)["web"] {
		t.Error("it is out again, and its Consul name still leads into the mesh")
	}
}

// Of two streams of a proxy the newer counts, and what lies in its mailbox is not accepted.
func TestProxyStates(t *testing.T) {
	now := time.Now()
	nacked := delta.TypeStatus{Type: delta.TypeCluster, State: delta.Nacked, Nacks: []delta.Nack{{Name: "api:80", Words: "no"}}}
	lags := delta.TypeStatus{Type: delta.TypeListener, State: delta.Stale, Since: now.Add(-3 * time.Second)}
	row := func(id string, serial uint64, waiting, behind bool, types ...delta.TypeStatus) serve.ProxyStatus {
		return serve.ProxyStatus{ID: id, Serial: serial, Waiting: waiting, Behind: behind, Status: delta.Status{Types: types}}
	}
	all := proxiesOf(now, &mesh.Snapshot{}, []serve.ProxyStatus{
		row("b/n", 1, false, false, nacked), row("b/n", 5, false, false), row("a/n", 2, true, false), row("c/n", 3, false, true), row("d/n", 4, false, false, lags), row("e/n", 6, false, false, lags, nacked),
	}, func(mesh.ProxyID) []plan.Problem { return []plan.Problem{{What: "it cannot work"}} })
	got := map[string]string{}
	for _, p := range all {
		got[p.ID] = p.State
		if len(p.Problems) != 1 || p.Node != "n" {
			t.Errorf("%+v", p)
		}
	}
	if want := map[string]string{"a/n": "stale", "b/n": "synced", "c/n": "stale", "d/n": "stale", "e/n": "nacked"}; !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	if lag := all[3].Types[0].LagSeconds; lag != 3 {
		t.Errorf("it lags %v s, want 3", lag)
	}
	if c := countsOf(all); c.Synced != 1 || c.Stale != 3 || c.Nacked != 1 {
		t.Errorf("%+v", c)
	}
}
