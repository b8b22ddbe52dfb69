package plan

import (
	"slices"
	"strings"
	"testing"

	"github.com/kerege/kerege/mesh"
)

// A call's steps are in the order of its way, however many targets it may have.
func TestExplainOrder(t *testing.T) {
	parts := canary(mesh.Rule{Name: "all", To: []mesh.Target{to("api.v2", 1000), to("users", 1000), to("api.v1", -1)}})
	snap, _ := mesh.Merge(parts...)
	e := Explain(NewView(snap), Call{From: "web", To: "api", Method: "GET", Path: "/", Headers: map[string]string{"x-b": "2", "x-a": "1"}})
	var order []string
	for _, s := range e.Steps {
		if len(order) == 0 || order[len(order)-1] != s.Name {
			order = append(order, s.Name)
		}
	}
	want := strings.Fields("request name listener route split endpoints identity endpoints identity endpoints identity decision")
	if !slices.Equal(order, want) {
		t.Errorf("got  %v\nwant %v\n%s", order, want, told(e))
	}
	if e.Steps[0].What != "web calls api: GET /, x-a=1, x-b=2." {
		t.Errorf("request: %s", e.Steps[0].What)
	}
}

// An instance that is held is listed with the subset that it is of, and no other.
func TestExplainHeldInItsSubset(t *testing.T) {
	parts := canary(mesh.Rule{Name: "all", To: []mesh.Target{to("api.v2", 1000), to("api.v1", -1)}})
	away := inst("api", "10.0.0.9:8080", "v2")
	away.Node = "n-away"
	parts[0] = consul("api", inst("api", "10.0.0.1:8080", "v1"), inst("api", "10.0.0.2:8080", "v2"), away)
	snap, _ := mesh.Merge(parts...)
	text := told(Explain(NewView(snap), Call{From: "web", To: "api", Method: "GET", Path: "/"}))
	at := func(s string) int { return strings.Index(text, s) }
	if strings.Count(text, "10.0.0.9:8080 held") != 1 || at("api.v1:8080 has 1 endpoint.") > at("api.v2:8080 has 1 endpoint.") || at("api.v2:8080 has 1 endpoint.") > at("10.0.0.9:8080 held") {
		t.Errorf("in\n%s", text)
	}
}

// The fix allows this call, and no more where the caller has rights by method and path.
func TestExplainFixIsNarrow(t *testing.T) {
	get := allow("web")
	get.Methods, get.PathPrefix = []string{"GET"}, "/v1"
	parts := canary()
	own := intention("api", get)
	own.Pos = mesh.Pos{File: "i.hcl", Line: 1}
	parts[len(parts)-1].Intentions = []mesh.Intention{own}
	snap, _ := mesh.Merge(parts...)
	for _, c := range []struct {
		call Call
		want string
	}{
		{Call{From: "web", To: "api", Method: "GET", Path: "/"}, "intention \"api\" {\n  # beside what is there: i.hcl:1\n  allow {\n    from    = [\"web\"]\n    methods = [\"GET\"]\n    path    = \"/\"\n  }\n}\n"},
		{Call{From: "web", To: "api", Method: "POST", Path: "/v1/x?y=1"}, "    methods = [\"POST\"]\n    path    = \"/v1/x\"\n"},
		{Call{From: "users", To: "api", Method: "GET", Path: "/"}, "intention \"api\" {\n  # beside what is there: i.hcl:1\n  allow { from = [\"users\"] }\n}\n"},
		{Call{From: "users", To: "api", Method: "DELETE", Path: "/"}, "    methods = [\"DELETE\"]\n"},
		{Call{From: "web", To: "users"}, "intention \"users\" {\n  allow { from = [\"web\"] }\n}\n"},
		{Call{From: "web", To: "api", Method: "GET", Path: "/v1/x"}, ""},
	} {
		e := Explain(NewView(snap), c.call)
		if !strings.Contains(e.Fix, c.want) || e.Allowed != (c.want == "") || e.Allowed && e.Fix != "" {
			t.Errorf("%+v: allowed %v, fix\n%s", c.call, e.Allowed, e.Fix)
		}
	}
}

// That nobody is there to answer is no refusal.
func TestExplainNobodyThere(t *testing.T) {
	parts := canary()
	parts[1].Members = nil // all are held
	snap, _ := mesh.Merge(parts...)
	e := Explain(NewView(snap), Call{From: "web", To: "api", Method: "GET", Path: "/"})
	if e.Allowed || e.Verdict != "allowed, and answered with 503: no endpoint of api:8080" || e.Fix != "" {
		t.Errorf("%s", told(e))
	}
}
