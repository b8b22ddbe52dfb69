package agent

import (
	"os/user"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/kerege/kerege/config"
)

// TestWhoseTheProxyIs: the setting goes before what is only excluded, a name that
// is nobody's is not replaced by another's, and whoever it is is never captured.
func TestWhoseTheProxyIs(t *testing.T) {
	if _, err := user.Lookup("kerege-envoy"); err == nil {
		t.Fatal("this machine has a user kerege-envoy, which the test takes for granted it has not")
	}
	nobody, err := user.Lookup("nobody")
	if err != nil {
		t.Fatal(err)
	}
	want, _ := strconv.Atoi(nobody.Uid)
	for _, c := range []struct {
		setting string
		exclude []string
		uid     int
	}{
		{"", nil, -1},
		{"", []string{"4711"}, 4711},
		{"", []string{"kerege-no-such-user", "nobody"}, want},
		{"nobody", []string{"4711"}, want},
		{"4712", []string{"4711"}, 4712},
		{"kerege-no-such-user", []string{"4711"}, -1},
	} {
		cfg := &config.Agent{Node: "n1", DataDir: t.TempDir(), RunDir: t.TempDir(), Envoy: config.Envoy{User: c.setting}, Capture: config.Capture{ExcludeUsers: c.exclude}}
		a, err := New(cfg, Options{Logger: hclog.NewNullLogger()})
		if err != nil {
			t.Fatal(err)
		}
		w := &workload{placement: placement{Service: "web", Ports: []uint16{18080}}, who: who{user: "4000", uid: 4000}}
		if uid, _ := a.owner(w); uid != c.uid {
			t.Errorf("envoy user %q, excluded %v: uid %d, want %d", c.setting, c.exclude, uid, c.uid)
		}
		a.memory.change(func(s *state) { s.Placed = []placement{{Service: "web", Ports: []uint16{18080}}} })
		cfg.Workloads = []config.Workload{{Name: "web", User: "4000"}}
		got, held, err := a.captureConfig("")
		if c.setting == "kerege-no-such-user" {
			if err == nil || !strings.Contains(err.Error(), "does not exist") {
				t.Errorf("a proxy's user that is not there: %v", err)
			}
			continue
		}
		if c.exclude != nil && c.exclude[0] == "kerege-no-such-user" {
			continue // an excluded user must exist to capture
		}
		if err != nil || len(held) > 0 || len(got.Workloads) != 1 || slices.Contains(got.EnvoyUIDs, uint32(c.uid)) != (c.uid >= 0) {
			t.Errorf("envoy user %q: captured %+v, held %v, %v", c.setting, got, held, err)
		}
	}
}
