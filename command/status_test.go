package command

import (
	"strings"
	"testing"
	"time"

	"github.com/kerege/kerege/api"
)

func TestHostsAreNamedForWhatTheyAre(t *testing.T) {
	out := time.Date(2026, 1, 2, 3, 4, 0, 0, time.Local)
	c := &Call{}
	got := strings.Join(hostLines(c, []api.Node{
		{Name: "vm-1", Connected: true, Services: []string{"web"}, State: "in"}, {Name: "vm-2", Services: []string{"api"}, State: "in"},
		{Name: "vm-3", Connected: true, State: "joined", Outside: map[string]string{"db": "its capture is gone"}}, {Name: "vm-4", State: "away"}, {Name: "vm-5", State: "left"},
		{Name: "vm-6", State: "evicted", Since: out}, {Name: "vm-7", State: "banned", Since: out, Reason: "stolen"},
	}), "\n")
	want := `2 hosts in the mesh: vm-1 (web), vm-2 (api) away
1 joined, nothing of it is in: vm-3
1 away, nothing of it is in: vm-4
1 left: vm-5
vm-6 was evicted at 2026-01-02 03:04: back with kerege token create -node vm-6, then kerege join there
vm-7 was banned at 2026-01-02 03:04: stolen; back with kerege node unban vm-7, kerege token create -node vm-7, then kerege join there
db on vm-3 is out: its capture is gone`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestNobodyIsIn(t *testing.T) {
	ca := api.CA{LeafTTLSeconds: 3600 * 24}
	for want, nodes := range map[string][]api.Node{
		"":                    {{Name: "a", State: "in"}, {Name: "b", State: "evicted"}},
		"Nothing is captured": {{Name: "b", State: "left"}},
		"What was captured on b, c is captured still, and calls among hosts that were sent away go on until their certificates end, in 24 h at most": {{Name: "b", State: "evicted"}, {Name: "c", State: "banned"}, {Name: "d", State: "away"}},
		"No host is in the mesh, so none is called by mTLS": {{Name: "b", State: "joined"}},
	} {
		if got := nobodyIn(api.Status{Nodes: nodes, CA: ca}); (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	well := api.Status{Ready: true, Nodes: []api.Node{{Name: "a", State: "joined"}}}
	ill := api.Status{Ready: true, Nodes: []api.Node{{Name: "a", State: "joined", Outside: map[string]string{"api": "gone"}}}}
	if unwell(well) || !unwell(ill) {
		t.Error("a lost capture is not what status is unwell for")
	}
}

func TestAnswered(t *testing.T) {
	for want, a := range map[string]api.Applied{
		"Acknowledged by 2 of 2 proxies in 84 ms.":                                                         {Proxies: 2, Acknowledged: 2, Seconds: .0841},
		"Acknowledged by 0 of 0 proxies in 1 ms.":                                                          {},
		"Acknowledged by 1 of 4 proxies in 3.0 s. 2 refused an update, 1 has not answered: kerege proxies": {Proxies: 4, Acknowledged: 1, Refused: 2, Seconds: 3},
		"Acknowledged by 1 of 3 proxies in 3.0 s. 2 have not answered: kerege proxies":                     {Proxies: 3, Acknowledged: 1, Seconds: 3.01},
	} {
		if got := answered(a); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}
