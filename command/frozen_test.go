package command

import (
	"strings"
	"testing"
	"time"

	"github.com/kerege/kerege/api"
)

// The status of a mesh that is frozen says how much waits, and each warning that
// stands on a line of its own, on 80 columns.
func TestStatusOfAFrozenMesh(t *testing.T) {
	st := api.Status{TrustDomain: "test.example", MTLS: "strict", DefaultIntention: "deny", Outbound: "registered", Ready: true,
		Generation: api.Generation{Number: 4, Applied: time.Now(), Files: 2}, Frozen: &api.Frozen{Since: time.Now(), Waiting: 3, Reason: "incident"},
		Held:     []api.Held{{Service: "api", Instance: "api-1", Address: "10.0.0.1:8080", Node: "vm-2", Reason: "its host is not in the mesh for this service: kerege join and kerege capture apply on vm-2"}},
		Warnings: []api.Diagnostic{{Where: "/etc/kerege.d/mesh/mesh.hcl:29", Summary: `subset "v2" of "api" matches none of 2 instances`}}}
	text := strings.Join(strings.Fields(page(t, func(c *Call) { printStatus(c, st) })), " ")
	for _, w := range []string{"before kerege thaw; 3 changes wait", "1 warning of generation 4", `mesh.hcl:29 subset "v2" of "api" matches none`, "kerege capture apply on vm-2"} {
		if !strings.Contains(text, w) {
			t.Errorf("%q is missing in %s", w, text)
		}
	}
}
