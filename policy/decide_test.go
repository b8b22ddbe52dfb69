package policy

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/kerege/kerege/mesh"
)

func svc(name string) mesh.Identity {
	return mesh.ServiceIdentity("prod.example", mesh.ServiceName(name))
}

func get(from, path string) Request {
	return Request{From: svc(from), To: "api", HTTP: true, Method: "GET", Path: path}
}

func intention(label string, rules ...mesh.Permission) *mesh.Intention {
	return &mesh.Intention{Label: label, Rules: rules}
}

func TestDecide(t *testing.T) {
	allowWeb := mesh.Permission{Action: mesh.ActionAllow, From: []string{"web"}}
	for _, c := range []struct {
		what  string
		rules []*mesh.Intention
		def   mesh.Action
		req   Request
		want  bool
	}{
		{"nothing said: deny", nil, mesh.ActionDeny, get("web", "/"), false},
		{"no default at all: deny", nil, mesh.ActionUnset, get("web", "/"), false},
		{"nothing said: the default allows", nil, mesh.ActionAllow, get("web", "/"), true},
		{"allowed", []*mesh.Intention{intention("api", allowWeb)}, mesh.ActionDeny, get("web", "/"), true},
		{"another caller", []*mesh.Intention{intention("api", allowWeb)}, mesh.ActionDeny, get("web2", "/"), false},
		{"another destination's", []*mesh.Intention{intention("users", allowWeb)}, mesh.ActionDeny, get("web", "/"), false},
		{"a pattern's label", []*mesh.Intention{intention("a*", allowWeb)}, mesh.ActionDeny, get("web", "/"), true},
		{"an unknown action is no allow", []*mesh.Intention{intention("api", mesh.Permission{From: []string{"web"}})}, mesh.ActionAllow, get("web", "/"), false},
		{"a wider deny wins", []*mesh.Intention{intention("api", allowWeb), intention("*", mesh.Permission{Action: mesh.ActionDeny, From: []string{"*"}})}, mesh.ActionAllow, get("web", "/"), false},
		{"a narrower deny wins", []*mesh.Intention{intention("*", mesh.Permission{Action: mesh.ActionAllow, From: []string{"*"}}), intention("api", mesh.Permission{Action: mesh.ActionDeny, From: []string{"web"}})}, mesh.ActionAllow, get("web", "/"), false},
		{"except of a deny", []*mesh.Intention{intention("api", allowWeb, mesh.Permission{Action: mesh.ActionDeny, From: []string{"*"}, Except: []string{"web"}})}, mesh.ActionDeny, get("web", "/"), true},
		{"except of an allow", []*mesh.Intention{intention("api", mesh.Permission{Action: mesh.ActionAllow, From: []string{"*"}, Except: []string{"we*"}})}, mesh.ActionDeny, get("web", "/"), false},
		{"a node is no caller", []*mesh.Intention{intention("*", mesh.Permission{Action: mesh.ActionAllow, From: []string{"*"}})}, mesh.ActionAllow, Request{From: mesh.Identity{TrustDomain: "x", Kind: "node", Name: "web"}, To: "api"}, false},
		{"a namesake in a namespace", []*mesh.Intention{intention("api", allowWeb)}, mesh.ActionAllow, Request{From: mesh.Identity{TrustDomain: "x", Namespace: "a", Kind: "svc", Name: "web"}, To: "api"}, false},
		{"no certificate: only * names it", []*mesh.Intention{intention("api", mesh.Permission{Action: mesh.ActionAllow, From: []string{"*"}})}, mesh.ActionDeny, Request{To: "api"}, true},
		{"no certificate and a pattern", []*mesh.Intention{intention("api", mesh.Permission{Action: mesh.ActionAllow, From: []string{"web", "w*"}})}, mesh.ActionDeny, Request{To: "api"}, false},
	} {
		if got := Decide(c.rules, c.def, c.req); got.Allowed != c.want || got.Reason == "" {
			t.Errorf("%s: %+v, want %v", c.what, got, c.want)
		}
	}
}

func TestConditions(t *testing.T) {
	for _, c := range []struct {
		rule mesh.Permission
		req  Request
		want bool // it matches
	}{
		{mesh.Permission{Methods: []string{"GET"}}, get("web", "/"), true},
		{mesh.Permission{Methods: []string{"POST"}}, get("web", "/"), false},
		{mesh.Permission{Path: "/a"}, get("web", "/a"), true},
		{mesh.Permission{Path: "/a"}, get("web", "/a?x=/b"), true},
		{mesh.Permission{Path: "/a"}, get("web", "/a#b"), true},
		{mesh.Permission{Path: "/a"}, get("web", "/a/"), false},
		{mesh.Permission{PathPrefix: "/v1"}, get("web", "/v1"), true},
		{mesh.Permission{PathPrefix: "/v1"}, get("web", "/v1/"), true},
		{mesh.Permission{PathPrefix: "/v1/"}, get("web", "/v1"), true},
		{mesh.Permission{PathPrefix: "/v1"}, get("web", "/v1/x?y"), true},
		{mesh.Permission{PathPrefix: "/v1"}, get("web", "/v1x"), false},
		{mesh.Permission{PathPrefix: "/v1"}, get("web", "/x?/v1"), false},
		{mesh.Permission{PathPrefix: "/"}, get("web", "/any"), true},
		{mesh.Permission{PathRegex: "/u/[0-9]+"}, get("web", "/u/7"), true},
		{mesh.Permission{PathRegex: "/u/[0-9]+"}, get("web", "/u/7/x"), false},
		{mesh.Permission{PathRegex: "/a|/b"}, get("web", "/b"), true},
		{mesh.Permission{PathRegex: "/a|/b"}, get("web", "/xx/b"), false},
		{mesh.Permission{Ports: []string{"admin"}}, get("web", "/"), false},
		{mesh.Permission{Methods: []string{"GET"}, PathPrefix: "/v1"}, get("web", "/v2"), false},
	} {
		c.rule.From = []string{"web"}
		for _, action := range []mesh.Action{mesh.ActionAllow, mesh.ActionDeny} {
			c.rule.Action = action
			want, def := c.want, mesh.ActionDeny
			if action == mesh.ActionDeny {
				want, def = !c.want, mesh.ActionAllow
			}
			if got := Decide([]*mesh.Intention{intention("api", c.rule)}, def, c.req); got.Allowed != want {
				t.Errorf("%s %+v, %+v: %+v, want %v", action, c.rule, c.req, got, want)
			}
		}
	}
}

func TestWhatCannotBeJudgedGoesAgainstTheCaller(t *testing.T) {
	tcp := Request{From: svc("web"), To: "api"}
	onlyGet := mesh.Permission{From: []string{"web"}, Methods: []string{"GET"}}
	badRegex := mesh.Permission{From: []string{"web"}, PathRegex: "("}
	for _, c := range []struct {
		rule mesh.Permission
		req  Request
	}{{onlyGet, tcp}, {badRegex, tcp}, {badRegex, get("web", "/")}} {
		c.rule.Action = mesh.ActionAllow
		if Decide([]*mesh.Intention{intention("api", c.rule)}, mesh.ActionDeny, c.req).Allowed {
			t.Errorf("an allow with %+v admits %+v", c.rule, c.req)
		}
		c.rule.Action = mesh.ActionDeny
		if Decide([]*mesh.Intention{intention("api", c.rule)}, mesh.ActionAllow, c.req).Allowed {
			t.Errorf("a deny with %+v lets %+v through", c.rule, c.req)
		}
	}
}

func drawSome(t *rapid.T, list ...string) []string {
	return rapid.SliceOfNDistinct(rapid.SampledFrom(list), 0, 2, rapid.ID[string]).Draw(t, "some")
}

func drawRule(t *rapid.T) mesh.Permission {
	return mesh.Permission{
		Action: rapid.SampledFrom([]mesh.Action{mesh.ActionAllow, mesh.ActionDeny}).Draw(t, "action"),
		From:   drawSome(t, "web", "ops", "w*", "*"), Except: drawSome(t, "web", "w*"),
		Methods: drawSome(t, "GET", "POST"), PathPrefix: rapid.SampledFrom([]string{"", "/v1", "/v1/"}).Draw(t, "prefix"),
		Path: rapid.SampledFrom([]string{"", "", "/v1/x"}).Draw(t, "path"), PathRegex: rapid.SampledFrom([]string{"", "", "/v.*", "("}).Draw(t, "regex"),
		Ports: drawSome(t, "http", "admin"),
	}
}

func drawIntentions(t *rapid.T) (list []*mesh.Intention) {
	for range rapid.IntRange(0, 3).Draw(t, "intentions") {
		in := intention(rapid.SampledFrom([]string{"api", "*", "a*", "users"}).Draw(t, "label"))
		for range rapid.IntRange(1, 3).Draw(t, "rules") {
			in.Rules = append(in.Rules, drawRule(t))
		}
		list = append(list, in)
	}
	return list
}

func drawRequest(t *rapid.T) Request {
	r := Request{To: "api", Port: rapid.SampledFrom([]string{"", "http", "admin"}).Draw(t, "port"), HTTP: rapid.Bool().Draw(t, "http"),
		Method: rapid.SampledFrom([]string{"GET", "POST"}).Draw(t, "method"), Path: rapid.SampledFrom([]string{"/", "/v1", "/v1/x", "/v1x", "/v2?a=/v1"}).Draw(t, "p")}
	if who := rapid.SampledFrom([]string{"", "web", "ops", "x"}).Draw(t, "who"); who != "" {
		r.From = svc(who)
	}
	return r
}

// More allows, or a laxer default, never refuse what was admitted; more denies
// never admit what was refused; the order of blocks never matters.
func TestDecideIsMonotonic(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list, req := drawIntentions(t), drawRequest(t)
		def := rapid.SampledFrom([]mesh.Action{mesh.ActionAllow, mesh.ActionDeny}).Draw(t, "default")
		was := Decide(list, def, req).Allowed
		extra := drawRule(t)
		with := append(slices.Clone(list), intention("api", extra))
		is := Decide(with, def, req).Allowed
		if extra.Action == mesh.ActionAllow && was && !is {
			t.Fatalf("the allow %+v refuses %+v", extra, req)
		}
		if extra.Action == mesh.ActionDeny && !was && is {
			t.Fatalf("the deny %+v admits %+v", extra, req)
		}
		slices.Reverse(with)
		for _, in := range with {
			c := slices.Clone(in.Rules)
			slices.Reverse(c)
			in.Rules = c
		}
		if Decide(with, def, req).Allowed != is {
			t.Fatal("the order of blocks matters")
		}
		if was && !Decide(list, mesh.ActionAllow, req).Allowed {
			t.Fatal("default_intention = \"allow\" refuses what deny admits")
		}
		if !req.HTTP && was {
			req.HTTP = true
			if !Decide(list, def, req).Allowed {
				t.Fatalf("a caller may open a connection but not make any request on it: %+v", req)
			}
		}
	})
}

func FuzzUnder(f *testing.F) {
	f.Add("/v1/x", "/v1")
	f.Fuzz(func(t *testing.T, path, prefix string) {
		bare := strings.TrimRight(prefix, "/")
		want := path == bare || strings.HasPrefix(path, bare+"/")
		if Under(path, prefix) != want {
			t.Fatalf("Under(%q, %q) = %v", path, prefix, !want)
		}
	})
}
