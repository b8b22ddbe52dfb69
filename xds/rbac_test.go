package xds

import (
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	rbacfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"pgregory.net/rapid"

	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/plan"
	"github.com/kerege/kerege/policy"
)

// decide is what Envoy makes of a filter, written from its documentation.
func decide(f *rbacfilterv3.RBAC, r policy.Request, names ...string) bool {
	for _, p := range f.Rules.Policies {
		for _, who := range p.Principals {
			if holds(who, r, names) {
				return f.Rules.Action == rbacv3.RBAC_ALLOW
			}
		}
	}
	return f.Rules.Action == rbacv3.RBAC_DENY
}

// names are the DNS names in the caller's certificate.
func holds(p *rbacv3.Principal, r policy.Request, names []string) bool {
	switch p := p.Identifier.(type) {
	case *rbacv3.Principal_Any:
		return p.Any
	case *rbacv3.Principal_NotId:
		return !holds(p.NotId, r, names)
	case *rbacv3.Principal_AndIds:
		for _, q := range p.AndIds.Ids {
			if !holds(q, r, names) {
				return false
			}
		}
		return true
	case *rbacv3.Principal_OrIds:
		for _, q := range p.OrIds.Ids {
			if holds(q, r, names) {
				return true
			}
		}
		return false
	case *rbacv3.Principal_Authenticated_:
		is := func(name string) bool { return same(p.Authenticated.PrincipalName, name) }
		return r.From != (mesh.Identity{}) && (is(r.From.String()) || slices.ContainsFunc(names, is))
	case *rbacv3.Principal_Header:
		return p.Header.Name == ":method" && same(p.Header.GetStringMatch(), r.Method)
	case *rbacv3.Principal_UrlPath:
		bare, _, _ := strings.Cut(r.Path, "?")
		return same(p.UrlPath.GetPath(), bare)
	}
	panic(fmt.Sprintf("%T is not known here", p.Identifier))
}

func same(m *matcherv3.StringMatcher, s string) bool {
	switch m := m.MatchPattern.(type) {
	case *matcherv3.StringMatcher_Exact:
		return s == m.Exact
	case *matcherv3.StringMatcher_Prefix:
		return strings.HasPrefix(s, m.Prefix)
	case *matcherv3.StringMatcher_SafeRegex:
		return regexp.MustCompile(`\A(?:` + m.SafeRegex.Regex + `)\z`).MatchString(s)
	}
	panic(fmt.Sprintf("%T is not known here", m.MatchPattern))
}

func someRules(t *rapid.T, action mesh.Action) []mesh.Permission {
	names := rapid.SampledFrom([]string{"*", "web", "we", "web-2", "web*", "b*", "batch-1"})
	var out []mesh.Permission
	for range rapid.IntRange(0, 3).Draw(t, "rules") {
		out = append(out, mesh.Permission{
			Action:     action,
			Name:       rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "name"),
			From:       rapid.SliceOfN(names, 1, 3).Draw(t, "from"),
			Except:     rapid.SliceOfN(names, 0, 2).Draw(t, "except"),
			Methods:    rapid.SliceOfN(rapid.SampledFrom([]string{"GET", "POST", "get"}), 0, 2).Draw(t, "methods"),
			Path:       rapid.SampledFrom([]string{"", "", "/", "/a", "/a/b"}).Draw(t, "path"),
			PathPrefix: rapid.SampledFrom([]string{"", "", "/", "//", "/a", "/a/", "/a/b"}).Draw(t, "prefix"),
			PathRegex:  rapid.SampledFrom([]string{"", "", "/a.*", "/[ab]|/", `.*\.css`, "("}).Draw(t, "regex"),
		})
	}
	return out
}

// The one that matters: what Envoy is told is what was decided.
func TestRulesAreDecidedAsPolicyDecides(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := &plan.Policy{
			Name: "api:8080", TrustDomain: testDomain,
			Default: rapid.SampledFrom([]mesh.Action{mesh.ActionAllow, mesh.ActionDeny}).Draw(t, "default"),
			Deny:    someRules(t, mesh.ActionDeny), Allow: someRules(t, mesh.ActionAllow),
			Away: rapid.SampledFrom([][]string{nil, {"a.mark"}, {"a.mark", "b.mark"}}).Draw(t, "away"),
		}
		filter := rbac(p)
		if err := filter.ValidateAll(); err != nil {
			t.Fatal(err)
		}
		w := &writer{}
		w.extension(p)
		intentions := []*mesh.Intention{{Label: "api", Rules: append(append([]mesh.Permission{}, p.Allow...), p.Deny...)}}
		for range 20 {
			r := policy.Request{
				To: "api", HTTP: true,
				Method: rapid.SampledFrom([]string{"GET", "POST", "get", "PUT"}).Draw(t, "method"),
				Path:   rapid.SampledFrom([]string{"/", "/a", "/a/", "/a/b", "/ab", "/a?x=1", "/x.css", "/a/b?y=.css", "/secret?.css", "/b"}).Draw(t, "path"),
			}
			if name := rapid.SampledFrom([]string{"", "web", "we", "web-2", "batch-1", "other"}).Draw(t, "caller"); name != "" {
				r.From = testIdentity(name)
			}
			want := policy.Decide(intentions, p.Default, r)
			mark := rapid.SampledFrom([]string{"", "a.mark", "b.mark", "c.mark"}).Draw(t, "mark")
			if r.From.Name != "" && slices.Contains(p.Away, mark) {
				want = policy.Decision{Reason: "its node was sent away"}
			}
			if got := decide(filter, r, mark); got != want.Allowed {
				t.Fatalf("Envoy would say %v, Decide says %v (%s) for %+v\n%v", got, want.Allowed, want.Reason, r, filter)
			}
		}
	})
}

// Logs, and by them the agent, tell the refusal of who was sent away from others.
func TestWhoWasSentAwayIsRefusedByName(t *testing.T) {
	allow := []mesh.Permission{{Action: mesh.ActionAllow, From: []string{"*"}}}
	for what, p := range map[string]*plan.Policy{
		"default allow": {Default: mesh.ActionAllow}, "default deny": {Default: mesh.ActionDeny}, "an allow": {Default: mesh.ActionDeny, Allow: allow},
	} {
		p.TrustDomain = testDomain
		if rbac(p).ShadowRules != nil {
			t.Errorf("%s: shadow rules and nobody was sent away", what)
		}
		p.Away = []string{"a.mark"}
		shadow := rbac(p).ShadowRules
		if who := shadow.GetPolicies()[ruleAway]; who == nil || shadow.Action != rbacv3.RBAC_DENY ||
			!holds(who.Principals[0], policy.Request{From: testIdentity("web")}, []string{"a.mark"}) ||
			holds(who.Principals[0], policy.Request{From: testIdentity("web")}, []string{"b.mark"}) {
			t.Errorf("%s: %v", what, shadow)
		}
	}
}

func TestUntilRulesComeNobodyIsLetIn(t *testing.T) {
	if decide(denyAll(), policy.Request{From: testIdentity("web"), Method: "GET", Path: "/"}) {
		t.Error("the default lets somebody in")
	}
}

func TestAllBut(t *testing.T) {
	word := rapid.StringOfN(rapid.RuneFrom([]rune("ab-_9")), 1, 4, -1)
	rapid.Check(t, func(t *rapid.T) {
		var denied []string
		out := map[string]bool{}
		for _, s := range rapid.SliceOfN(word, 0, 6).Draw(t, "denied") {
			denied, out["s/"+s] = append(denied, "s/"+s), true
		}
		matchers := allBut("s/", denied)
		for range 30 {
			s := "s/" + word.Draw(t, "caller")
			if rapid.Bool().Draw(t, "one of them") && len(denied) > 0 {
				s = rapid.SampledFrom(denied).Draw(t, "which")
			}
			let := false
			for _, m := range matchers {
				let = let || same(m, s)
			}
			if let == out[s] {
				t.Fatalf("%s: let in %v, denied are %v", s, let, denied)
			}
		}
		for _, m := range matchers {
			if same(m, "x/a") {
				t.Fatalf("%v lets in what has another beginning", m)
			}
		}
	})
}
