package consul

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/hashicorp/consul/api"

	"github.com/kerege/kerege/mesh"
)

func TestConvertTakesAllThatConsulSays(t *testing.T) {
	got := convert("api", "dc1", []*api.ServiceEntry{
		{
			Node: &api.Node{Node: "vm-1", Address: "10.0.0.1", Datacenter: "dc2", Meta: map[string]string{"rack": "r1"},
				TaggedAddresses: map[string]string{"lan": "10.0.0.1", "wan": "192.0.2.1"}},
			Service: &api.AgentService{ID: "api-1", Service: "api", Port: 8080, Tags: []string{"z", "a"},
				Meta:            map[string]string{"version": "v1", "kerege-protocol": "http2"},
				TaggedAddresses: map[string]api.ServiceAddress{"wan": {Address: "192.0.2.7", Port: 80}, "named": {Address: "x.example", Port: 1}},
				Weights:         api.AgentWeights{Passing: 10, Warning: 2}},
			Checks: api.HealthChecks{{Status: "passing"}, {Status: "warning"}},
		},
		{
			Node:    &api.Node{Node: "vm-2", Address: "10.0.0.2"},
			Service: &api.AgentService{ID: "proxy", Service: "api", Kind: api.ServiceKindConnectProxy, Port: 20000},
		},
		nil,
	})
	want := []mesh.Instance{{
		Service: "api", ID: "api-1", Source: "consul", Registered: "api", Datacenter: "dc2", Node: "vm-1",
		Addr: netip.MustParseAddrPort("10.0.0.1:8080"), Protocol: mesh.ProtocolHTTP2, Tags: []string{"a", "z"},
		Meta: map[string]string{"version": "v1", "kerege-protocol": "http2"}, NodeMeta: map[string]string{"rack": "r1"},
		Tagged: map[string]netip.AddrPort{"lan": netip.MustParseAddrPort("10.0.0.1:8080"), "wan": netip.MustParseAddrPort("192.0.2.7:80")},
		Weight: 2, Health: mesh.Warning, Locality: mesh.Locality{Region: "dc2"},
	}}
	if d := cmp.Diff(want, got, cmpopts.EquateComparable(netip.AddrPort{})); d != "" {
		t.Error(d)
	}
}

func TestHealthIsTheWorstCheck(t *testing.T) {
	for _, c := range []struct {
		want   mesh.Health
		checks []string
	}{
		{mesh.Healthy, nil},
		{mesh.Healthy, []string{"passing", "passing"}},
		{mesh.Warning, []string{"warning", "passing"}},
		{mesh.Unhealthy, []string{"passing", "critical", "warning"}},
		{mesh.Unhealthy, []string{"maintenance"}},
		{mesh.Unhealthy, []string{"a word of tomorrow"}},
	} {
		var list api.HealthChecks
		for _, s := range c.checks {
			list = append(list, &api.HealthCheck{Status: s})
		}
		if got := health(list); got != c.want {
			t.Errorf("%v: %v, want %v", c.checks, got, c.want)
		}
	}
}

func TestPortsAndNames(t *testing.T) {
	got := convert("api", "dc1", []*api.ServiceEntry{
		{Node: &api.Node{Node: "vm-1"}, Service: &api.AgentService{ID: "a", Service: "api", Address: "10.0.0.1", Tags: []string{"kerege-protocol=grpc"},
			Ports: api.ServicePorts{{Name: "http", Port: 80, Default: true}, {Name: "admin", Port: 81}}}},
		{Node: &api.Node{Node: "vm-2", Address: "vm-2.example"}, Service: &api.AgentService{ID: "b", Service: "api", Port: 80}},
		{Node: &api.Node{Node: "vm-3", Address: "10.0.0.3"}, Service: &api.AgentService{ID: "c", Service: "api", Port: 80,
			Weights: api.AgentWeights{Passing: 1}}, Checks: api.HealthChecks{{Status: "warning"}}},
	})
	if len(got) != 4 || got[0].Addr.IsValid() || got[0].ID != "b" ||
		got[1].ID != "a" || got[1].PortName != "http" || got[1].Protocol != mesh.ProtocolGRPC ||
		got[2].ID != "a:admin" || got[2].Addr.Port() != 81 || got[3].Health != mesh.Draining {
		t.Errorf("got %+v", got)
	}
	_, conflicts := mesh.Merge(mesh.Part{Source: "consul", Scope: "api", Instances: got})
	if !slices.ContainsFunc(conflicts, func(c mesh.Conflict) bool { return strings.Contains(c.What, "it has no IP address") }) {
		t.Errorf("a host name is not reported: %+v", conflicts)
	}
}

func TestNextIndex(t *testing.T) {
	for _, c := range [][3]uint64{{0, 0, 1}, {1, 0, 1}, {10, 0, 0}, {10, 5, 0}, {10, 10, 10}, {10, 11, 11}, {0, 7, 7}} {
		if got := nextIndex(c[0], c[1]); got != c[2] {
			t.Errorf("nextIndex(%d, %d) = %d, want %d", c[0], c[1], got, c[2])
		}
	}
}

func TestAnIDNamesAnAllocation(t *testing.T) {
	const id = "3f1c2a4b-0d5e-4f67-8a9b-0c1d2e3f4a5b"
	for in, want := range map[string]string{
		"_nomad-task-" + id + "-group-api-api-http":          id,
		"_nomad-task-" + id + "-web-web-http":                id,
		"_nomad-task-" + id:                                  "",
		"_nomad-task-" + id + "x":                            "",
		"_nomad-task-../../../../../../../../../etc/passwd-": "",
		"_nomad-task-" + strings.ToUpper(id) + "-g-api-http": "",
		"_nomad-client-" + id + "-x":                         "",
		"web-1":                                              "",
		"":                                                   "",
	} {
		if got := allocation(in); got != want {
			t.Errorf("%q: %q, not %q", in, got, want)
		}
	}
}

func TestNomadsOwnAgentsAreNoService(t *testing.T) {
	entry := func(id string) *api.ServiceEntry {
		return &api.ServiceEntry{Node: &api.Node{Node: "n1", Address: "10.0.0.1"}, Service: &api.AgentService{ID: id, Service: "nomad", Port: 4646}}
	}
	got := convert("nomad", "dc1", []*api.ServiceEntry{
		entry("_nomad-server-f4ufxdeb2lzjwjsaqg6ddmlmzgbgbpq5"), entry("_nomad-client-zrqk4aa7kkkzrhlyxmtsvbrrhq7hjtq5"),
		entry("nomad"), entry("_nomad-task-3f1c2a4b-0d5e-4f67-8a9b-0c1d2e3f4a5b-group-g-nomad-http"),
	})
	if len(got) != 2 || got[0].ID == got[1].ID || ofNomad(got[0].ID) || ofNomad(got[1].ID) {
		t.Errorf("%+v", got)
	}
}
