package agent

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/kerege/kerege/agent/capture"
	"github.com/kerege/kerege/agent/envoy"
	"github.com/kerege/kerege/agent/identity"
	keregev1 "github.com/kerege/kerege/api/kerege/v1"
	"github.com/kerege/kerege/config"
)

const allocation = "8ba85cef-1a2b-4c3d-9e4f-5a6b7c8d9e0f"

func newAllocated(t *testing.T) (*Agent, *fakeCapture) {
	t.Helper()
	a, err := New(&config.Agent{Node: "n1", DataDir: t.TempDir(), RunDir: t.TempDir()}, Options{Logger: hclog.NewNullLogger()})
	if err != nil {
		t.Fatal(err)
	}
	f := &fakeCapture{}
	a.cap = f
	a.ladder = newLadder(a.log, []step{{name: "dns"}})
	a.ladder.set(0, "up", "")
	return a, f
}

// claimOf claims a workload with a file that stands for a network namespace.
func claimOf(t *testing.T, a *Agent, key, path string, uid int) {
	t.Helper()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	service, id := cutKey(key)
	a.claimed(key, holder(&workload{placement: placement{Service: service, Workload: id}}), space{path, uid}, file, "token of "+key)
}

func TestWhereASidecarIs(t *testing.T) {
	me := caller{uid: os.Geteuid(), pid: os.Getpid()}
	if path, file, err := spaceOf(me, allocation); path != "" || file != nil || err != nil {
		t.Errorf("in the agent's own namespace: %q %v %v", path, file, err)
	}
	for name, who := range map[string]caller{
		"nobody":                {uid: -1},
		"a process of a number": {uid: me.uid, pid: 1 << 30},
		"another user's by now": {uid: me.uid + 1, pid: me.pid},
	} {
		if path, file, err := spaceOf(who, allocation); err == nil || file != nil {
			t.Errorf("%s: %q %v", name, path, file)
		}
	}
}

func TestAnAllocationIsHeldUntilItsSidecarCalls(t *testing.T) {
	a, _ := newAllocated(t)
	placed := func(source, id, address string) *workload {
		return &workload{placement: placement{Service: "web", Workload: id, Source: source, Addresses: []string{address}}, dir: "x"}
	}
	for name, w := range map[string]*workload{
		"in the host's network": placed("nomad", allocation, "127.0.0.1"),
		"no allocation":         placed("nomad", "", "203.0.113.9"),
	} {
		if a.allocated(w) {
			t.Errorf("%s: %q", name, w.held)
		}
	}
	if w := placed("consul", allocation, "203.0.113.9"); !a.allocated(w) || !strings.Contains(w.held, "has not called") {
		t.Errorf("registered in Consul: %+v", w)
	}
	w := placed("nomad", allocation, "203.0.113.9")
	if !a.allocated(w) || !strings.Contains(w.held, "has not called") || w.dir != "" {
		t.Errorf("%+v", w)
	}
	path := filepath.Join(t.TempDir(), "ns")
	claimOf(t, a, "web/"+allocation, path, 4711)
	w = placed("nomad", allocation, "203.0.113.9")
	if !a.allocated(w) || w.held != "" || w.who.netns != path || w.dir == "" {
		t.Errorf("%+v", w)
	}
	if got := a.claims.evidence(identity.Workload{Service: "web", Workload: allocation}); got != "token of web/"+allocation {
		t.Errorf("shown: %q", got)
	}
	if got := a.claims.evidence(identity.Workload{Service: "web"}); got != "" {
		t.Errorf("another workload shows %q", got)
	}
	claimOf(t, a, "web/"+allocation, path, 0)
	w = placed("nomad", allocation, "203.0.113.9")
	if !a.allocated(w) || !strings.Contains(w.held, "runs as root") {
		t.Errorf("%+v", w)
	}
}

func TestAllocationsAreCapturedByThemselvesAndTheHostIsNot(t *testing.T) {
	a, f := newAllocated(t)
	host := capture.Workload{Name: "db", UIDs: []uint32{4000}, OutboundPort: 1, InboundPort: 2}
	f.st = capture.Status{Applied: true, Config: &capture.Config{Workloads: []capture.Workload{host}, EnvoyUIDs: []uint32{4710}}}
	key := "web/" + allocation
	path := filepath.Join(t.TempDir(), "ns")
	claimOf(t, a, key, path, 4711)
	a.memory.change(func(s *state) {
		s.Placed = []placement{{Service: "web", Workload: allocation, Source: "nomad", Ports: []uint16{8080}, Addresses: []string{"203.0.113.9"}}}
		s.In[key], s.Slots[key] = true, 3
	})
	a.proxies[key] = &running{}
	look := func() []*workload {
		var placed []placement
		a.memory.look(func(s *state) { placed = s.Placed })
		return a.survey(placed)
	}
	a.captureAllocations(t.Context(), look())
	c := f.st.Config
	if len(c.Workloads) != 2 || c.Workloads[0].Name != "db" || c.Workloads[1].Netns != path || c.Workloads[1].OutboundPort != capture.OutboundPort(3) || len(c.EnvoyUIDs) != 2 {
		t.Fatalf("%+v", c)
	}
	f.st = capture.Status{} // kerege capture remove
	a.captureAllocations(t.Context(), look())
	if f.st.Applied {
		t.Error("what an operator took away was captured again")
	}

	f.st = capture.Status{Applied: true, Config: c}
	a.memory.change(func(s *state) { s.Placed[0].Gone = true })
	a.captureAllocations(t.Context(), look())
	if len(f.st.Config.Workloads) != 2 {
		t.Fatal("an allocation that is leaving lost its capture while it runs")
	}
	folder := a.proxyDir(key)
	if err := errors.Join(os.Remove(path), os.MkdirAll(folder, 0o700), os.WriteFile(envoy.AdminSocket(folder), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	a.captureAllocations(t.Context(), look())
	if _, err := os.Stat(folder); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its proxy's folder stays: %v", err)
	}
	if ws := f.st.Config.Workloads; len(ws) != 1 || ws[0].Name != "db" {
		t.Errorf("captured: %+v", ws)
	}
	a.memory.look(func(s *state) {
		if len(s.Placed)+len(s.In)+len(s.Slots)+len(s.Spaces) != 0 {
			t.Errorf("remembered: %+v", s)
		}
	})
	if _, still := a.claims.get(key); still {
		t.Error("its claim stays")
	}
}

// An allocation that is stopped before its sidecar calls leaves no folder; one whose
// Envoy is there keeps it until its namespace is gone.
func TestTheFolderOfAnAllocationThatNeverCalled(t *testing.T) {
	a, _ := newAllocated(t)
	for _, c := range []struct {
		key           string
		admin, vacant bool
	}{{"web/" + allocation, false, true}, {"web/" + allocation, true, false}, {"web", false, false}} {
		folder := a.proxyDir(c.key)
		if err := os.MkdirAll(folder, 0o700); err != nil {
			t.Fatal(err)
		}
		if c.admin {
			if err := os.WriteFile(envoy.AdminSocket(folder), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if got := a.vacant(c.key); got != c.vacant {
			t.Errorf("%+v: %v", c, got)
		}
	}
	claimOf(t, a, "api/"+allocation, filepath.Join(t.TempDir(), "ns"), 4711)
	if a.vacant("api/" + allocation) {
		t.Error("one whose sidecar called is taken for vacant")
	}
}

// A registry may place another service in an allocation than the one that it is:
// without a certificate that takes nothing from who is captured there, or will be.
func TestAServiceWithoutACertificateTakesNoNamespace(t *testing.T) {
	a, f := newAllocated(t)
	path := filepath.Join(t.TempDir(), "ns")
	for _, name := range []string{"bank", "web"} {
		key := name + "/" + allocation
		claimOf(t, a, key, path, 4711)
		a.memory.change(func(s *state) {
			s.Placed = append(s.Placed, placement{Service: name, Workload: allocation, Source: "consul", Ports: []uint16{8080}, Addresses: []string{"203.0.113.9"}})
			s.Slots[key] = len(s.Placed)
		})
		a.proxies[key] = &running{}
	}
	var placed []placement
	a.memory.look(func(s *state) { placed = s.Placed })
	a.captureAllocations(t.Context(), a.survey(placed))
	if f.st.Applied {
		t.Errorf("captured: %+v", f.st.Config.Workloads)
	}
	a.captureAllocations(t.Context(), a.survey(placed[1:]))
	if !f.st.Applied || len(f.st.Config.Workloads) != 1 {
		t.Errorf("alone in its namespace it is not captured: %+v", f.st)
	}
}

// An allocation whose ports Nomad maps on the host is in the mesh at the ports inside,
// once they are known, and they stay known.
func TestMappedPortsAreThoseInside(t *testing.T) {
	a, f := newAllocated(t)
	key := "web/" + allocation
	say := func(inside bool, port uint32) {
		a.update(&keregev1.NodeUpdate{PlacementSet: true, Placement: []*keregev1.Placement{{Service: "web", Workload: allocation, Source: "consul", Ports: []uint32{port}, Addresses: []string{"127.0.0.1"}, Inside: inside}}})
	}
	look := func() *workload {
		var placed []placement
		a.memory.look(func(s *state) { placed = s.Placed })
		list := a.survey(placed)
		a.captureAllocations(t.Context(), list)
		f.st.Deadline = time.Time{}
		return list[0]
	}
	a.proxies[key] = &running{}
	say(true, 8080)
	if w := look(); w.dir != "" || !strings.Contains(w.held, "its sidecar has not called yet") {
		t.Errorf("before its sidecar called: %+v", w)
	}
	a.update(&keregev1.NodeUpdate{PlacementSet: true})
	claimOf(t, a, key, filepath.Join(t.TempDir(), "ns"), 4711)
	say(false, 23456)
	if w := look(); !strings.Contains(w.held, "not known yet") || f.st.Applied {
		t.Errorf("captured at ports that nobody knows: %+v, %+v", w, f.st)
	}
	for _, port := range []uint32{8080, 8081} {
		say(true, port)
		if w := look(); w.held != "" || !f.st.Applied || !slices.Equal(f.st.Config.Workloads[0].Ports, []uint16{uint16(port)}) {
			t.Errorf("inside at %d: %+v, %+v", port, w, f.st.Config)
		}
	}
	say(false, 23456)
	if w := look(); w.held != "" || !slices.Equal(w.Ports, []uint16{8081}) || !slices.Equal(f.st.Config.Workloads[0].Ports, []uint16{8081}) {
		t.Errorf("a server that does not know made it unknown: %+v", w)
	}
}

func TestTheBridgeIsTheHostsAddressOnTheAllocationsNetwork(t *testing.T) {
	var theirs []net.Addr
	for _, text := range []string{"127.0.0.1/8", "::1/128", "172.26.64.5/20", "fd00::5/64", "10.0.0.2/32"} {
		ip, network, err := net.ParseCIDR(text)
		if err != nil {
			t.Fatal(err)
		}
		theirs = append(theirs, &net.IPNet{IP: ip, Mask: network.Mask})
	}
	got := onNetworks([]string{"10.0.0.2", "172.26.64.1", "172.26.64.5", "172.17.0.1", "fd00::1", "fd01::1", "127.0.0.2"}, theirs)
	if want := []netip.Addr{netip.MustParseAddr("172.26.64.1"), netip.MustParseAddr("fd00::1")}; !slices.Equal(got, want) {
		t.Errorf("%v, not %v", got, want)
	}
}

// What serves a workload is opened anew when its network namespace is another.
func TestAProxyIsOfOneNamespace(t *testing.T) {
	r := &running{stand: stand{1, 1, ""}}
	for _, c := range []struct {
		p    stand
		held bool
		want bool
	}{
		{stand{1, 1, ""}, false, true}, {stand{1, 1, "/run/netns/x"}, false, false}, {stand{1, 1, "/run/netns/x"}, true, true},
		{stand{2, 1, ""}, true, false},
	} {
		if r.at(c.p, c.held) != c.want {
			t.Errorf("%+v, held %v: %v", c.p, c.held, !c.want)
		}
	}
}
