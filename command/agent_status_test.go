package command

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/kerege/kerege/agent/capture"
	"github.com/kerege/kerege/api"
)

func TestAnAgentsWord(t *testing.T) {
	well := api.AgentStatus{Node: "vm-1", Joined: true, TrustDomain: "t.example", Expires: time.Now().Add(time.Hour),
		Servers: api.AgentServers{Addresses: []string{"s1:7401"}, Connected: true}, Steps: []api.AgentStep{{Name: "identity", State: "up"}},
		Workloads: []api.AgentWorkload{{Service: "web", State: "in", Accepted: true, Proxy: api.AgentProxy{ID: "web/vm-1", Envoys: 1}}}}
	ill := well
	ill.Servers = api.AgentServers{Addresses: []string{"s1:7401"}, Error: "refused"}
	ill.Evicted = true
	ill.Steps = []api.AgentStep{{Name: "identity", State: "up"}, {Name: "dns", State: "failed", Error: "port 53 is taken"}}
	ill.Workloads = []api.AgentWorkload{{Service: "web", State: "joining", Reason: "nothing is captured yet", Proxy: api.AgentProxy{ID: "web/vm-1"}}}
	for _, x := range []struct {
		st    api.AgentStatus
		ill   bool
		words []string
	}{
		{well, false, []string{"vm-1, a node of t.example", "certificate", "reached: s1:7401", "all up: identity", "applied: web", "web in"}},
		{ill, true, []string{"none is reached of s1:7401: refused", "up: identity; dns failed: port 53 is taken", "web joining: nothing is captured yet", "no Envoy is connected", "sent away from the mesh", "kerege token create -node vm-1"}},
	} {
		var out bytes.Buffer
		agentLines(&Call{terminal: terminal{out: &out}}, x.st, capture.Status{Applied: true, Config: &capture.Config{Workloads: []capture.Workload{{Name: "web"}}}}, nil)
		for _, want := range x.words {
			if !strings.Contains(out.String(), want) {
				t.Errorf("no %q in\n%s", want, out.String())
			}
		}
		if unwellAgent(x.st) != x.ill {
			t.Errorf("unwell: %v, want %v", !x.ill, x.ill)
		}
	}
}
