package server

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/kerege/kerege/api"
	"github.com/kerege/kerege/e2e/xdsim"
	"github.com/kerege/kerege/mesh"
)

// refusing is the files of the rig, with a deny of what web may do.
var refusing = strings.Replace(files, `allow { from = ["web"] }`, `deny { from = ["web"] }`, 1)

// settled waits until the proxies have been told all that was said.
func (r *rig) settled() {
	noError(r.t, r.s.hub.Settle(r.t.Context()))
	r.s.planner.settle(r.t.Context(), r.s.hub.Snapshot())
}

// While frozen the answers are about what the proxies have, and say what waits.
func TestAnswersWhileFrozen(t *testing.T) {
	r, _ := connected(t, xdsim.Mode{})
	r.settled()
	local[api.Frozen](r, "POST", "/v1/freeze", "")
	r.write(refusing)
	if a := local[api.Applied](r, "POST", "/v1/apply", ""); !a.Frozen || len(a.Cut) != 0 {
		t.Errorf("nothing is cut before the thaw: %+v", a)
	}
	const call = `{"from":"web","to":"api"}`
	e := local[api.Explain](r, "POST", "/v1/explain", call)
	if !e.Allowed || e.Thawed != "refused" || e.Frozen == nil || e.Frozen.Waiting != 1 || e.Frozen.Unknown || e.Frozen.Generation != 1 {
		t.Errorf("explain: %+v", e)
	}
	if e := local[api.Explain](r, "POST", "/v1/explain", `{"from":"web","to":"api","applied":true}`); e.Allowed || e.Thawed != "" || e.Frozen == nil {
		t.Errorf("explain of what is applied: %+v", e)
	}
	if all := local[[]api.Intention](r, "GET", "/v1/intentions", ""); len(all) != 1 || all[0].Action != "allow" {
		t.Errorf("intentions: %+v", all)
	}
	if all := local[[]api.Intention](r, "GET", "/v1/intentions?applied=true", ""); len(all) != 1 || all[0].Action != "deny" {
		t.Errorf("intentions applied: %+v", all)
	}
	p := local[api.Plan](r, "POST", "/v1/plan", "")
	if !p.Changes || p.Apply || p.Frozen == nil || p.Generation != 2 || len(p.Files) != 1 || !strings.Contains(p.Files[0], "mesh.hcl") {
		t.Errorf("plan: %+v", p)
	}
	if len(p.Calls) != 1 || p.Calls[0].Now != "everything" || p.Calls[0].Then != "refused" || len(p.Cut) != 1 || p.Cut[0] != (api.Cut{From: "web", To: "api:8080"}) {
		t.Errorf("plan of calls: %+v, cut %+v", p.Calls, p.Cut)
	}
	if len(p.Blocks) != 1 || p.Blocks[0].Block != `intention "api"` || len(p.Blocks[0].Edits) != 2 {
		t.Errorf("plan of blocks: %+v", p.Blocks)
	}
	r.write(refusing + bank)
	if p := local[api.Plan](r, "POST", "/v1/plan", ""); !p.Apply || len(p.Calls) != 2 {
		t.Errorf("plan of what is not applied: %+v", p)
	}
	r.write(refusing)
	if a := local[api.Applied](r, "POST", "/v1/thaw", ""); len(a.Cut) != 1 || a.Cut[0].To != "api:8080" {
		t.Errorf("thaw: %+v", a)
	}
	if f := local[api.Freeze](r, "GET", "/v1/freeze", ""); f.Frozen != nil {
		t.Errorf("thawed: %+v", f)
	}
	if e := local[api.Explain](r, "POST", "/v1/explain", call); e.Allowed || e.Frozen != nil {
		t.Errorf("explain after the thaw: %+v", e)
	}
}

// A server that was started frozen does not know what the proxies have, and says so.
func TestAnswersOfAServerThatStartedFrozen(t *testing.T) {
	r := newRig(t).start()
	local[api.Frozen](r, "POST", "/v1/freeze", "")
	r.again()
	r.write(refusing)
	local[api.Applied](r, "POST", "/v1/apply", "")
	if e := local[api.Explain](r, "POST", "/v1/explain", `{"from":"web","to":"api"}`); e.Allowed || e.Frozen == nil || !e.Frozen.Unknown || e.Thawed != "" {
		t.Errorf("%+v", e)
	}
	if p := local[api.Plan](r, "POST", "/v1/plan", ""); p.Frozen == nil || !p.Frozen.Unknown || p.Frozen.Generation != 1 || len(p.Files) != 1 || len(p.Blocks) != 1 {
		t.Errorf("%+v", p)
	}
	if f := local[api.Freeze](r, "GET", "/v1/freeze", ""); f.Frozen == nil || !f.Frozen.Unknown {
		t.Errorf("%+v", f)
	}
}

// Apply says whose connections it cuts.
func TestApplySaysWhoIsCut(t *testing.T) {
	r, _ := connected(t, xdsim.Mode{})
	r.write(refusing)
	if a := local[api.Applied](r, "POST", "/v1/apply", ""); len(a.Cut) != 1 || a.Cut[0] != (api.Cut{From: "web", To: "api:8080"}) {
		t.Errorf("%+v", a)
	}
}

const emptyCanary = `
service "canary" {
  instance "canary-1" {
    address = "10.0.0.9"
    port    = 90
    node    = "vm-2"
  }
  subset "v2" { filter = "Service.Meta.version == v2" }
}
`

// What plan warns of, apply warns of, too, and status goes on with it.
func TestWarningsStay(t *testing.T) {
	r := newRig(t).start()
	if st := local[api.Status](r, "GET", "/v1/status", ""); len(st.Warnings) != 0 {
		t.Errorf("%+v", st.Warnings)
	}
	r.write(files + emptyCanary)
	p := local[api.Plan](r, "POST", "/v1/plan", "")
	a := local[api.Applied](r, "POST", "/v1/apply", "")
	st := local[api.Status](r, "GET", "/v1/status", "")
	for what, all := range map[string][]api.Diagnostic{"plan": p.Warnings, "apply": a.Warnings, "status": st.Warnings} {
		if len(all) != 1 || !strings.Contains(all[0].Summary, `subset "v2" of "canary" matches none of 1 instance`) || !strings.Contains(all[0].Where, "mesh.hcl") {
			t.Errorf("%s warns of %+v", what, all)
		}
	}
}

// TestPlanIsWhatIsSent: after any edits of the files, what plan announced for a proxy
// is what it was then sent.
func TestPlanIsWhatIsSent(t *testing.T) {
	r, _ := connected(t, xdsim.Mode{})
	r.settled()
	id := mesh.ProxyID{Service: "web", Node: "vm-1"}
	has := func() map[string]string {
		r.s.planner.mu.Lock()
		defer r.s.planner.mu.Unlock()
		return flat(r.s.planner.has[id].set)
	}
	dice := rand.New(rand.NewPCG(3, 9))
	lost := 0
	for round := range 30 {
		text := strings.SplitAfter(files, "intention")[0]
		text = strings.TrimSuffix(text, "intention")
		for _, dest := range []string{"api", "bank", "new"} {
			if dest != "api" && dice.IntN(2) == 0 {
				text += fmt.Sprintf("service %q {\n  protocol = %q\n  port \"a\" { port = %d }\n}\n", dest, []string{"http", "tcp"}[dice.IntN(2)], 900+dice.IntN(3))
			}
			if dice.IntN(3) > 0 {
				text += fmt.Sprintf("intention %q {\n  %s { from = [%q] }\n}\n", dest, []string{"allow", "deny"}[dice.IntN(2)], []string{"web", "other", "*"}[dice.IntN(3)])
			}
		}
		if dice.IntN(2) == 0 {
			text += fmt.Sprintf("route \"api\" {\n  rule \"r\" { timeout = \"%ds\" }\n}\n", 1+dice.IntN(3))
		}
		r.write(text)
		before, p := has(), local[api.Plan](r, "POST", "/v1/plan", "")
		if len(p.Diagnostics) > 0 {
			t.Fatalf("%+v\n%s", p.Diagnostics, text)
		}
		local[api.Applied](r, "POST", "/v1/apply", "")
		after := has()
		want := api.ProxyChange{Changed: []string{}, Removed: []string{}}
		for _, key := range slices.Sorted(maps.Keys(after)) {
			if before[key] != after[key] {
				want.Changed = append(want.Changed, key)
			}
		}
		for _, key := range slices.Sorted(maps.Keys(before)) {
			if _, stays := after[key]; !stays {
				want.Removed = append(want.Removed, key)
			}
		}
		got := api.ProxyChange{Changed: []string{}, Removed: []string{}}
		if len(p.Proxies) > 0 {
			got = p.Proxies[0]
		}
		if !slices.Equal(got.Changed, want.Changed) || !slices.Equal(got.Removed, want.Removed) {
			t.Fatalf("round %d: announced\n%v removed %v\nand sent\n%v removed %v\n%s", round, got.Changed, got.Removed, want.Changed, want.Removed, text)
		}
		for _, call := range p.Calls {
			if call.From == "web" && call.Then == "refused" {
				lost++
			}
		}
	}
	if lost < 5 {
		t.Errorf("only %d rights were lost: the test shows little", lost)
	}
}
