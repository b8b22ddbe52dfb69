package plan

import (
	"fmt"
	"strings"
	"testing"

	"github.com/kerege/kerege/mesh"
)

func told(e Explanation) string {
	var b strings.Builder
	for _, s := range e.Steps {
		fmt.Fprintf(&b, "%s: %s [%s]\n", s.Name, s.What, s.Pos)
		for _, l := range s.List {
			fmt.Fprintf(&b, "  %s\n", l)
		}
	}
	fmt.Fprintf(&b, "allowed %v: %s\n%s", e.Allowed, e.Verdict, e.Fix)
	return b.String()
}

func TestExplain(t *testing.T) {
	snap, _ := mesh.Merge(canary(
		mesh.Rule{Name: "gold", Pos: mesh.Pos{File: "r.hcl", Line: 2}, To: []mesh.Target{to("api.v2", 1000), to("api.v1", -1)},
			Matches: []mesh.Match{{PathPrefix: "/v1", Headers: []mesh.ValueMatch{{Name: "x-tenant", In: []string{"gold"}}}}}},
		mesh.Rule{Name: "tea", Pos: mesh.Pos{File: "r.hcl", Line: 9}, Matches: []mesh.Match{{Path: "/tea"}}, Respond: &mesh.Respond{Status: 418}},
		mesh.Rule{Name: "away", Pos: mesh.Pos{File: "r.hcl", Line: 12}, Matches: []mesh.Match{{PathPrefix: "/users"}}, Rewrite: &mesh.Rewrite{PathPrefix: "/"}, To: []mesh.Target{to("users", -1)}},
	)...)
	for _, c := range []struct {
		call    Call
		allowed bool
		want    []string
	}{
		{Call{From: "web", To: "api", Method: "GET", Path: "/v1/x?y=1", Headers: map[string]string{"X-Tenant": "gold"}}, true,
			[]string{`route: The rule "gold" of the route "api". [r.hcl:2]`, "split: api.v1:8080 takes 90 %.", "split: api.v2:8080 takes 10 %.", "  10.0.0.1:8080 healthy, weight 1, mTLS",
				`decision: api: allowed by an allow block of the intention "api". [i.hcl:2]`, "spiffe://kerege.local/svc/api"}},
		{Call{From: "web", To: "api", Method: "GET", Path: "/v1/x"}, true, []string{`route: No rule of a route "api" speaks of the call`, "split: api:8080 takes 100 %."}},
		{Call{From: "web", To: "api", Method: "GET", Path: "/tea"}, false, []string{"answered 418", "allowed false: answered by the proxy of the caller"}},
		{Call{From: "web", To: "api", Method: "GET", Path: "/users/7"}, false, []string{"allowed false: refused", "The path becomes /7", "users:7000 takes 100 %", "decision: users: denied by default", `intention "users" {`}},
		{Call{From: "users", To: "api", Method: "GET", Path: "/"}, false, []string{"the catch-all, which answers 403", `allow { from = ["users"] }`}},
		{Call{From: "web", To: "ghost"}, false, []string{"is no service of the mesh"}},
		{Call{From: "wbe", To: "api", Method: "GET", Path: "/"}, false, []string{`Nobody knows a service "wbe".`}},
		{Call{From: "web", To: "api", Port: "9"}, false, []string{`api has no port "9"`}},
	} {
		e := Explain(NewView(snap), c.call)
		text := told(e)
		if e.Allowed != c.allowed {
			t.Errorf("%+v: allowed %v\n%s", c.call, e.Allowed, text)
		}
		for _, w := range c.want {
			if !strings.Contains(text, w) {
				t.Errorf("%+v: %q is missing in\n%s", c.call, w, text)
			}
		}
	}
}

func TestMatchAndRewrite(t *testing.T) {
	yes, no := new(true), new(false)
	header := func(v mesh.ValueMatch) mesh.Match { v.Name = "x-a"; return mesh.Match{Headers: []mesh.ValueMatch{v}} }
	with := Call{Path: "/p?q=1", Method: "GET", Headers: map[string]string{"X-A": "Gold"}}
	without := Call{Path: "/p", Method: "GET"}
	for _, c := range []struct {
		m             mesh.Match
		there, absent bool
	}{
		{header(mesh.ValueMatch{Exact: new("Gold")}), true, false},
		{header(mesh.ValueMatch{Exact: new("gold")}), false, false},
		{header(mesh.ValueMatch{Exact: new("gold"), IgnoreCase: true}), true, false},
		{header(mesh.ValueMatch{Exact: new("Gold"), Invert: true}), false, true},
		{header(mesh.ValueMatch{Regex: new("G.*")}), true, false},
		{header(mesh.ValueMatch{Regex: new("G")}), false, false},
		{header(mesh.ValueMatch{Present: yes}), true, false},
		{header(mesh.ValueMatch{Present: no}), false, true},
		{mesh.Match{Query: []mesh.ValueMatch{{Name: "q", Exact: new("1")}}}, true, false},
		{mesh.Match{Methods: []string{"POST"}}, false, false},
		{mesh.Match{Path: "/p"}, true, true},
	} {
		_, got := match([]mesh.Match{c.m}, with)
		_, gone := match([]mesh.Match{c.m}, without)
		if got != c.there || gone != c.absent {
			t.Errorf("%+v: %v and, without, %v", c.m, got, gone)
		}
	}
	for _, c := range []struct {
		r          mesh.Rewrite
		m          mesh.Match
		path, want string
	}{
		{mesh.Rewrite{Path: "/x"}, mesh.Match{}, "/p?q", "/x"},
		{mesh.Rewrite{PathPrefix: "/v2"}, mesh.Match{PathPrefix: "/legacy"}, "/legacy/orders/7", "/v2/orders/7"},
		{mesh.Rewrite{PathPrefix: "/v2"}, mesh.Match{PathPrefix: "/legacy/"}, "/legacy", "/v2"},
		{mesh.Rewrite{PathPrefix: "/"}, mesh.Match{PathPrefix: "/a"}, "/a/b/", "/b/"},
		{mesh.Rewrite{PathPrefix: "/"}, mesh.Match{PathPrefix: "/a"}, "/a", "/"},
		{mesh.Rewrite{PathRegex: `/users/\1`}, mesh.Match{PathRegex: `/u/(\d+)/profile`}, "/u/7/profile", "/users/7"},
	} {
		if got := rewritten(&c.r, &c.m, Call{Path: c.path}); got != c.want {
			t.Errorf("%+v of %s: %s, want %s", c.r, c.path, got, c.want)
		}
	}
}

func TestChanges(t *testing.T) {
	old, _ := mesh.Merge(canary()...)
	get := allow("users")
	get.Methods = []string{"GET"}
	parts := canary(mesh.Rule{Name: "r", To: []mesh.Target{to("api.v1", -1)}})
	parts[len(parts)-1].Intentions = []mesh.Intention{intention("api", get)}
	new, _ := old.With(parts...)
	calls, proxies := Changes(old, new, []Node{proxyOf("web"), proxyOf("users"), proxyOf("api")})
	want := `[{users api 8080 nothing GET i.hcl:2 } {web api 8080 everything nothing  cut}]`
	if got := fmt.Sprint(calls); got != want {
		t.Errorf("calls: %s, want %s", got, want)
	}
	if len(calls) == 2 && (!calls[0].Gains() || calls[0].Loses() || calls[1].Gains() || !calls[1].Loses()) {
		t.Errorf("gains and loses: %+v", calls)
	}
	got := fmt.Sprintf("%+v", proxies)
	for _, w := range []string{"Proxy:api/n-api Added:[] Removed:[] Changed:[policy api:8080]", "Removed:[cluster api.none:8080", "Added:[cluster api.none:8080"} {
		if !strings.Contains(got, w) {
			t.Errorf("%q is missing in %s", w, got)
		}
	}
	for _, c := range []struct{ open, want string }{{"finish", "finish"}, {"cut", "cut"}, {"", "cut"}} {
		in := intention("api", get)
		in.Open = c.open
		parts[len(parts)-1].Intentions = []mesh.Intention{in}
		then, _ := old.With(parts...)
		if calls, _ := Changes(old, then, nil); len(calls) != 2 || calls[0].Open != "" || calls[1].Open != c.want {
			t.Errorf("open = %q: %+v", c.open, calls)
		}
	}
	if calls, proxies := Changes(old, old, []Node{proxyOf("web")}); calls != nil || proxies != nil {
		t.Errorf("no change: %v %v", calls, proxies)
	}
}
