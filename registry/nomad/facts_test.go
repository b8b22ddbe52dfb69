package nomad

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/kerege/kerege/mesh"
)

// bridged is an allocation as Nomad 1.11 answers for one, less what is not read.
const bridged = `{"ID":"a1","TaskGroup":"web","ClientStatus":"running","NetworkStatus":{"Address":"172.26.64.5","AddressIPv6":""},
 "AllocatedResources":{"Shared":{"Networks":[{"Mode":"bridge"}],"Ports":[
  {"Label":"http","Value":23456,"To":8080,"HostIP":"10.0.0.2"},{"Label":"admin","Value":24000,"To":0,"HostIP":"10.0.0.2"},
  {"Label":"lo","Value":25000,"To":9000,"HostIP":"127.0.0.1"}]}},
 "Job":{"TaskGroups":[
  {"Name":"web","Services":[{"Name":"web","PortLabel":"http","Checks":[
    {"Type":"http","Path":"/health"},{"Type":"http","Path":"ready?full=1","AddressMode":"alloc","Method":"head"},{"Type":"tcp"},
    {"Type":"http","Path":"/tls","Protocol":"https"},{"Type":"http","Path":"/${meta.x}"},{"Type":"http","Path":"http://else/where"},
    {"Type":"http","Path":"/elsewhere","PortLabel":"9999"},{"Type":"http","Path":"/literal","PortLabel":"8081","AddressMode":"alloc"},
    {"Type":"grpc","PortLabel":"lo"},{"Type":"grpc","PortLabel":"admin","GRPCUseTLS":true},{"Type":"script"}]}],
   "Tasks":[{"Services":[{"Name":"admin","PortLabel":"admin","Checks":[{"Type":"http","Path":"/"}]}]}]},
  {"Name":"other","Services":[{"Name":"pay","PortLabel":"http","Checks":[{"Type":"http","Path":"/secret"}]}]}]}}`

func TestFacts(t *testing.T) {
	host := netip.MustParseAddr("10.0.0.2")
	full := Facts{
		Addrs: []netip.Addr{netip.MustParseAddr("172.26.64.5")},
		Ports: []mesh.PortMap{{Host: 23456, App: 8080}, {Host: 24000, App: 24000}, {Host: 25000, App: 9000}},
		Probes: []mesh.Probe{
			{Port: 8080, Method: "GET", Path: "/health", From: host},
			{Port: 8080, Method: "HEAD", Path: "/ready?full=1"},
			{Port: 8081, Method: "GET", Path: "/literal"},
			{Port: 9000, Method: "POST", Path: "/grpc.health.v1.Health/Check"},
			{Port: 24000, Method: "GET", Path: "/", From: host},
		},
		Settled: true,
	}
	young := full
	young.Addrs, young.Settled = nil, false
	for name, c := range map[string]struct {
		change func(*described)
		want   Facts
	}{
		"all":                   {func(*described) {}, full},
		"its network is not up": {func(d *described) { d.NetworkStatus = nil }, young},
		"in the host's network": {func(d *described) { d.AllocatedResources.Shared.Networks[0].Mode = "host" }, Facts{Settled: true}},
		"without a network":     {func(d *described) { d.AllocatedResources = nil }, Facts{Settled: true}},
	} {
		t.Run(name, func(t *testing.T) {
			var d described
			if err := json.Unmarshal([]byte(bridged), &d); err != nil {
				t.Fatal(err)
			}
			c.change(&d)
			if diff := cmp.Diff(c.want, d.facts(), cmpopts.EquateComparable(netip.Addr{})); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestFactsAreAskedFor(t *testing.T) {
	s := newScript(t)
	s.intercept = func(w http.ResponseWriter, r *http.Request) bool {
		w.Write([]byte(bridged))
		return true
	}
	src, err := New(Options{Address: s.srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	if f, err := src.Facts(t.Context(), "a1"); err != nil || len(f.Ports) != 3 {
		t.Errorf("%+v, %v", f, err)
	}
	if _, err := src.Facts(t.Context(), "a2"); !errors.Is(err, ErrAway) {
		t.Errorf("an answer for another allocation: %v", err)
	}
	for status, want := range map[int]error{http.StatusNotFound: ErrNone, http.StatusForbidden: ErrAway, http.StatusInternalServerError: ErrAway} {
		s.intercept = func(w http.ResponseWriter, r *http.Request) bool { w.WriteHeader(status); return true }
		if _, err := src.Facts(t.Context(), "a1"); !errors.Is(err, want) {
			t.Errorf("%d: %v", status, err)
		}
	}
}
