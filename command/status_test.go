package command

import (
	"testing"

	"github.com/kerege/kerege/api"
)

func TestHostsLine(t *testing.T) {
	got := hostsLine([]api.Node{
		{Name: "vm-1", Connected: true, Services: []string{"web"}}, {Name: "vm-2", Services: []string{"api"}},
		{Name: "vm-3", Connected: true}, {Name: "vm-4"},
	})
	if want := "2 hosts in the mesh: vm-1 (web), vm-2 (api) away, vm-3 (joined, nothing of it is in), vm-4 (away, nothing of it is in)"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
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
