package agent

import (
	"slices"
	"strings"
	"testing"

	"github.com/kerege/kerege/agent/capture"
	"github.com/kerege/kerege/config"
)

func heldOf(list []*workload) map[string]string {
	out := map[string]string{}
	for _, w := range list {
		out[w.key()] = w.held
	}
	return out
}

// Two workloads at one port of a host: each is held with a sentence that names the
// other, the third is captured, and who is in the mesh already stays in it.
func TestTwoWorkloadsClaimOnePort(t *testing.T) {
	a, _ := newAllocated(t)
	a.find = func(_ string, ports ...uint16) ([]capture.Listener, error) {
		return []capture.Listener{{Port: ports[0], PID: 77, UID: 4000 + uint32(ports[0]), User: "app"}}, nil
	}
	place := func(list ...placement) {
		a.memory.change(func(s *state) { s.Placed = list })
	}
	web, other, db := placement{Service: "web", Source: "consul", Ports: []uint16{8080}}, placement{Service: "api", Source: "consul", Ports: []uint16{9090, 8080}}, placement{Service: "db", Source: "consul", Ports: []uint16{5432}}
	place(web, other, db)
	capturable := func() (names []string, held []capture.Stop) {
		t.Helper()
		c, held, err := a.captureConfig("")
		if err != nil || len(c.Check()) > 0 {
			t.Fatal(err, c.Check())
		}
		for _, w := range c.Workloads {
			names = append(names, w.Name)
		}
		return names, held
	}
	names, held := capturable()
	if !slices.Equal(names, []string{"db"}) {
		t.Errorf("captured %v", names)
	}
	if len(held) != 2 || held[0].Error() != `workload api: it is held: port 8080 is claimed by web too, and calls that arrive there can be one workload's only: register each at a port of its own, or write the right ports into a workload "api" block of agent.hcl` ||
		!strings.Contains(held[1].Error(), "port 8080 is claimed by api too") {
		t.Errorf("held: %+v", held)
	}

	a.memory.change(func(s *state) { s.In["web"] = true })
	names, held = capturable()
	if !slices.Equal(names, []string{"db", "web"}) || len(held) != 1 || !strings.Contains(held[0].Mend, "claimed by web too") {
		t.Errorf("beside one that is in: captured %v, held %+v", names, held)
	}

	gone := web
	gone.Gone = true
	if held := heldOf(a.survey([]placement{gone, other, db})); held["web"] != "" || !strings.HasSuffix(held["api"], "no registry places that one here any more: kerege leave web takes it out") {
		t.Errorf("where one is registered no more: %q", held)
	}

	a.cfg.Workloads = []config.Workload{{Name: "api", Ports: []uint16{9090}}} // as the sentence says
	if held := heldOf(a.survey([]placement{web, other, db})); held["web"]+held["api"]+held["db"] != "" {
		t.Errorf("mended: %q", held)
	}
	a.memory.change(func(s *state) { s.In = map[string]bool{} })
	a.cfg.Workloads = []config.Workload{{Name: "api", Ports: []uint16{9090}}, {Name: "db", Ports: []uint16{9090}}} // in agent.hcl itself
	if held := heldOf(a.survey([]placement{web, other, db})); held["web"] != "" || !strings.Contains(held["api"], "port 9090 is claimed by db too") || !strings.Contains(held["db"], "port 9090 is claimed by api too") {
		t.Errorf("two blocks of agent.hcl: %q", held)
	}
}

// Ports of different network namespaces are different ports, and in an allocation's
// nothing is claimed that the allocation has no certificate for.
func TestWhoClaimsAPort(t *testing.T) {
	at := func(service, netns string) *workload {
		return &workload{placement: placement{Service: service, Workload: allocation, Ports: []uint16{8080}}, who: who{netns: netns}}
	}
	for _, c := range []struct {
		what    string
		other   string // namespace
		forged  string // has no certificate
		in      string
		web, my bool // who is held: web, bank
	}{
		{"both are what they say", "a", "", "", true, true},
		{"one of them is in", "a", "", "web", false, true},
		{"one is not what it says", "a", "bank", "", false, false}, // without a certificate it goes no further
		{"another namespace", "b", "", "", false, false},
	} {
		web, bank := at("web", "a"), at("bank", c.other)
		collide([]*workload{bank, web}, func(w *workload) bool { return w.Service == c.in }, func(w *workload) bool { return w.Service != c.forged })
		if (web.held != "") != c.web || (bank.held != "") != c.my {
			t.Errorf("%s: web %q, bank %q", c.what, web.held, bank.held)
		}
	}
	a, _ := newAllocated(t)
	web, bank := at("web", "a"), at("bank", "a")
	a.holdShared([]*workload{bank, web})
	if web.held+bank.held != "" {
		t.Errorf("without certificates: web %q, bank %q", web.held, bank.held)
	}
}
