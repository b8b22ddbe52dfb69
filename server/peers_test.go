package server

import (
	"fmt"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kerege/kerege/api"
	keregev1 "github.com/kerege/kerege/api/kerege/v1"
	"github.com/kerege/kerege/mesh"
)

func TestANodeHearsWhoItsPeersAre(t *testing.T) {
	snap, _ := (&mesh.Snapshot{}).With(
		registered("consul", "api", instance("api", "vm-2", "10.0.0.2:8080"), instance("api", "vm-3", "10.0.0.3:8080")),
		mesh.Part{Source: "file", Services: []mesh.ServiceConfig{{Name: "api", Ports: []mesh.Port{{Name: "http", Number: 8080}, {Name: "admin", Number: 81}}}}},
		mesh.Part{Source: "members", Scope: "api", Members: []mesh.Member{{Service: "api", Node: "vm-3"}}})
	nodes := []api.Node{
		{Name: "vm-4", Addresses: []string{"10.0.0.4"}, Services: []string{"job"}},
		{Name: "vm-5", Addresses: []string{"10.0.0.5", "fd00::5"}},
	}
	got := map[string]string{}
	answer := peersOf(snap, nodes, []string{"10.0.0.2", "10.0.0.3:8080", "10.0.0.3:81", "10.0.0.3:22", "10.0.0.4", "[fd00::5]:9", "10.0.0.9", "nonsense"})
	for _, p := range answer.Peers {
		got[p.Address] = fmt.Sprint(p.Node, " ", p.InMesh, " ", p.Service)
	}
	want := map[string]string{"10.0.0.2": "vm-2 false ", "10.0.0.3:8080": "vm-3 true api", "10.0.0.3:81": "vm-3 true api", "10.0.0.3:22": "vm-3 true ",
		"10.0.0.4": "vm-4 true ", "[fd00::5]:9": "vm-5 false "}
	for k, w := range want {
		if got[k] != w {
			t.Errorf("%s: %q, not %q", k, got[k], w)
		}
	}
	if len(got) != len(want) || answer.Outbound != "registered" {
		t.Errorf("got %v, outbound %q", got, answer.Outbound)
	}
}

func TestAPlacementSaysHowStrictItIs(t *testing.T) {
	w := newTown(t, registered("consul", "web", instance("web", "vm-1", "10.0.0.1:80")), mesh.Part{Source: "file"})
	mtls := func() string { v, _ := w.View("vm-1"); return v.placement[0].Mtls }
	if mtls() != "strict" {
		t.Errorf("by default %q", mtls())
	}
	for _, c := range []struct {
		part mesh.Part
		want string
	}{
		{mesh.Part{Source: "file", Mesh: &mesh.Config{MTLS: mesh.MTLSPermissive}}, "permissive"},
		{mesh.Part{Source: "file", Services: []mesh.ServiceConfig{{Name: "web", MTLS: mesh.MTLSDisabled}}}, "disabled"},
		{mesh.Part{Source: "file", Services: []mesh.ServiceConfig{{Name: "web", MTLS: mesh.MTLSPermissive, Ports: []mesh.Port{{Name: "http", Number: 80}, {Name: "admin", Number: 81, MTLS: mesh.MTLSStrict}}}}}, "strict"},
	} {
		if !w.say(c.part) {
			t.Errorf("%s wakes nobody", c.want)
		}
		if got := mtls(); got != c.want {
			t.Errorf("%q, not %q", got, c.want)
		}
	}
}

func TestPeersAreForNodesAlone(t *testing.T) {
	d := newDesk(t)
	if _, err := keregev1.NewNodeClient(d.dial(nil)).Peers(t.Context(), &keregev1.PeersRequest{}); status.Code(err) != codes.Unauthenticated {
		t.Errorf("a stranger: %v", err)
	}
}
