package plan

import (
	"strings"
	"testing"

	"github.com/kerege/kerege/mesh"
)

// TestExplainOfAnEmptyTarget: a share that a rule gives to nobody is told of, with
// its line, and only where it goes to the others.
func TestExplainOfAnEmptyTarget(t *testing.T) {
	none := to("api.none", 1000)
	none.Pos = mesh.Pos{File: "r.hcl", Line: 4}
	fail := none
	fail.IfEmpty = "fail"
	for _, c := range []struct {
		what string
		to   []mesh.Target
		says string
		not  string
	}{
		{"the rest takes it", []mesh.Target{none, to("api.v1", 9000)}, `split: api.none has no endpoint: its 10 % go to the others (if_empty = "rest"). [r.hcl:4]`, ""},
		{"it fails", []mesh.Target{fail, to("api.v1", 9000)}, "split: api.none:8080 takes 10 %.", "go to the others"},
		{"nobody is there", []mesh.Target{none}, "split: api.none:8080 takes 100 %.", "go to the others"},
	} {
		snap, _ := mesh.Merge(canary(mesh.Rule{Name: "canary", To: c.to})...)
		text := told(Explain(NewView(snap), Call{From: "web", To: "api", Method: "GET", Path: "/"}))
		if !strings.Contains(text, c.says) || c.not != "" && strings.Contains(text, c.not) {
			t.Errorf("%s:\n%s", c.what, text)
		}
	}
}

// TestExplainOfTCP: a connection has no method and no path, and meets no HTTP answer.
func TestExplainOfTCP(t *testing.T) {
	none := to("api.none", 500)
	parts := canary(mesh.Rule{Name: "all", To: []mesh.Target{none, to("api.v1", 9500)}})
	parts[len(parts)-1].Services[0].Protocol = mesh.ProtocolTCP
	snap, _ := mesh.Merge(parts...)
	for from, want := range map[mesh.ServiceName][]string{
		"web":   {"request: web connects to api.", "split: api.v1:8080 takes 100 %.", "api.none has no endpoint: its 5 % go", "allowed true"},
		"users": {"request: users connects to api.", "the connection meets the catch-all, which does not let it through", `allow { from = ["users"] }`},
	} {
		text := told(Explain(NewView(snap), Call{From: from, To: "api", Method: "GET", Path: "/"}))
		for _, w := range want {
			if !strings.Contains(text, w) {
				t.Errorf("%q is missing in\n%s", w, text)
			}
		}
		for _, not := range []string{"GET", "403", "No rule of a route"} {
			if strings.Contains(text, not) {
				t.Errorf("%q is said of a connection:\n%s", not, text)
			}
		}
	}
}
