package server

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/kerege/kerege/api"
	keregev1 "github.com/kerege/kerege/api/kerege/v1"
	"github.com/kerege/kerege/e2e/xdsim"
	"github.com/kerege/kerege/mesh"
)

// stray is what somebody with write on a registry says: api is on vm-9, too.
func stray(addr string) mesh.Part {
	return mesh.Part{Source: "consul", Scope: "api", Instances: []mesh.Instance{{Service: "api", Source: "consul", ID: "api-9", Node: "vm-9",
		Weight: 1, Addr: netip.MustParseAddrPort(addr)}}}
}

// A registry's word and a joined node together are not enough for the identity of
// a service that is pinned, nor for its calls.
func TestAPinnedServiceIsNotPlacedElsewhere(t *testing.T) {
	r, c := connected(t, xdsim.Mode{})
	r.s.hub.Put(stray("10.0.0.9:8080"))
	noError(t, r.s.hub.Members().Put(mesh.Member{Service: "api", Node: "vm-9"}))
	noError(t, r.s.hub.Settle(t.Context()))
	vm9 := r.dial(r.nodeCert("vm-9"))
	sign := func(conn keregev1.SignClient) error {
		_, csr := newRequest(t)
		_, err := conn.Sign(t.Context(), &keregev1.SignRequest{Service: "api", Csr: csr})
		return err
	}
	noError(t, sign(keregev1.NewSignClient(vm9))) // so it is without a pin

	r.write(strings.Replace(files, `service "api" {`, "service \"api\" {\n  nodes = [\"vm-2*\"]\n", 1))
	p := local[api.Plan](r, "POST", "/v1/plan", "")
	if !p.Changes || len(p.Diagnostics) != 0 {
		t.Fatalf("plan %+v", p)
	}
	local[api.Applied](r, "POST", "/v1/apply", "")
	r.until("the caller has the pinned instance alone", func() bool {
		return r.s.ads.State("web/vm-1") == "synced" && len(r.s.hub.Snapshot().Node("vm-9")) == 0
	})
	refused(t, sign(keregev1.NewSignClient(vm9)), codes.PermissionDenied, `pinned to nodes = ["vm-2*"]`)
	noError(t, sign(keregev1.NewSignClient(r.dial(r.nodeCert("vm-2")))))
	proxy := r.envoy(vm9, "api/vm-9", capture, xdsim.Mode{})
	<-proxy.Done()
	refused(t, proxy.Err(), codes.PermissionDenied, "")
	if v, _ := r.s.views.View("vm-9"); len(v.placement) != 0 {
		t.Errorf("the node is told of %v", v.placement)
	}
	said := func(where, text string) {
		t.Helper()
		if !strings.Contains(text, `it is on vm-9, and its service is pinned to nodes = ["vm-2*"]`) || !strings.Contains(text, "mesh.hcl:") {
			t.Errorf("%s says %q", where, text)
		}
	}
	var held []string
	for _, h := range local[api.Status](r, "GET", "/v1/status", "").Held {
		held = append(held, h.Instance+" "+h.Reason)
	}
	said("status", strings.Join(held, "\n"))
	for _, v := range local[[]api.Service](r, "GET", "/v1/services", "") {
		for _, i := range v.Instances {
			if i.ID == "api-9" {
				said("services", i.Held)
			}
		}
	}
	var steps []string
	for _, s := range local[api.Explain](r, "POST", "/v1/explain", `{"from":"web","to":"api"}`).Steps {
		steps = append(steps, s.List...)
	}
	said("explain", strings.Join(steps, "\n"))
	if len(held) != 1 || strings.Contains(strings.Join(steps, "\n"), "10.0.0.9:8080 healthy") {
		t.Errorf("held %v, explained %v", held, steps)
	}
	if problems := c.Problems(); len(problems) != 0 {
		t.Error(problems)
	}
}

// An address that other hosts cannot call is neither an endpoint nor its host's.
func TestALoopbackAddressIsNobodysEndpoint(t *testing.T) {
	for _, addr := range []string{"127.0.0.1:8080", "0.0.0.0:8080", "224.0.0.1:8080", "240.0.0.9:8080", "[::]:8080", "[ff02::1]:8080"} {
		snap, _ := mesh.Merge(stray(addr), mesh.Part{Source: "members", Scope: "api", Members: []mesh.Member{{Service: "api", Node: "vm-9"}}})
		out := peersOf(snap, nil, []string{addr})
		if len(out.GetPeers()) != 0 {
			t.Errorf("%s is said to be %v", addr, out.GetPeers())
		}
		held := heldOf(snap, nil)
		if len(held) != 1 || !strings.HasSuffix(held[0].Reason, "cannot be called from another host") {
			t.Errorf("%s: held %v", addr, held)
		}
		if got := placementOf(snap, "vm-9"); len(got) != 0 {
			t.Errorf("%s is placed: %v", addr, got)
		}
	}
	table := newNodeTable()
	_, leave := table.enter(t.Context(), "vm-9", time.Now())
	defer leave()
	table.note("vm-9", &keregev1.NodeReport{Addresses: []string{"127.0.0.1", "10.0.0.9", "240.0.0.1", "::"}}, time.Now())
	if got := table.list()[0].Addresses; len(got) != 1 || got[0] != "10.0.0.9" {
		t.Errorf("a node says of itself that it is at %v", got)
	}
}
