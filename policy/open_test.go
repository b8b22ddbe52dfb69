package policy

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"

	"github.com/kerege/kerege/mesh"
)

// What a node judges by is what the mesh decides by.
func TestRulesDecideAsTheIntentions(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		list, req := drawIntentions(t), drawRequest(t)
		for _, in := range list {
			in.Open = rapid.SampledFrom([]string{"", "cut", "finish"}).Draw(t, "open")
		}
		def := rapid.SampledFrom([]mesh.Action{mesh.ActionAllow, mesh.ActionDeny, mesh.ActionUnset}).Draw(t, "default")
		text := RulesOf(list, def, req.To, req.Port).Text()
		rules, err := ReadRules(text)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(rules.Text(), text) {
			t.Fatalf("%s is written again as %s", text, rules.Text())
		}
		want := Decide(list, def, req)
		may, got := rules.MayStay(req)
		if got.Allowed != want.Allowed || got.Reason != want.Reason {
			t.Fatalf("%+v: %+v, the intentions say %+v", req, got, want)
		}
		if finishes := Finishes(list, req); may != (want.Allowed || finishes) {
			t.Fatalf("%+v: it may stay: %v; allowed %v, finishes %v", req, may, want.Allowed, finishes)
		}
	})
}

func TestWhatIsOpenFinishesOrIsCut(t *testing.T) {
	of := func(label, open string, rules ...mesh.Permission) *mesh.Intention {
		return &mesh.Intention{Label: label, Open: open, Rules: rules}
	}
	deny := mesh.Permission{Action: mesh.ActionDeny, From: []string{"web"}}
	allowOps := mesh.Permission{Action: mesh.ActionAllow, From: []string{"ops"}}
	for _, c := range []struct {
		what string
		list []*mesh.Intention
		want bool
	}{
		{"nothing said", nil, false},
		{"a deny without a word", []*mesh.Intention{of("api", "", deny)}, false},
		{"a deny that cuts", []*mesh.Intention{of("api", "cut", deny)}, false},
		{"a deny that lets finish", []*mesh.Intention{of("api", "finish", deny)}, true},
		{"of two denies one cuts", []*mesh.Intention{of("api", "finish", deny), of("*", "", deny)}, false},
		{"a deny beside somebody's finish", []*mesh.Intention{of("*", "", deny), of("api", "finish", allowOps)}, false},
		{"its allow was taken out", []*mesh.Intention{of("api", "finish", allowOps)}, true},
		{"the exact label decides", []*mesh.Intention{of("*", "finish", allowOps), of("api", "", allowOps)}, false},
		{"the exact label decides, in any order", []*mesh.Intention{of("api", "finish", allowOps), of("*", "", allowOps)}, true},
		{"the longer pattern decides", []*mesh.Intention{of("a*", "finish", allowOps), of("*", "cut", allowOps)}, true},
		{"another's intention", []*mesh.Intention{of("users", "finish", deny)}, false},
	} {
		if got := Finishes(c.list, get("web", "/")); got != c.want {
			t.Errorf("%s: %v, want %v", c.what, got, c.want)
		}
	}
}

// A strict port has no caller without a certificate, whatever its intentions allow.
func TestAStrictPortKeepsNoPlaintext(t *testing.T) {
	all := mesh.Permission{Action: mesh.ActionAllow, From: []string{"*"}}
	for _, c := range []struct {
		what, open, from string
		strict, want     bool
	}{
		{"permissive", "", "", false, true},
		{"strict", "", "", true, false},
		{"strict, with a certificate", "", "web", true, true},
		{"strict, and what is open finishes", "finish", "", true, true},
	} {
		rules := RulesOf([]*mesh.Intention{{Label: "api", Open: c.open, Rules: []mesh.Permission{all}}}, mesh.ActionDeny, "api", "http")
		rules.Strict = c.strict
		rules, err := ReadRules(rules.Text())
		if err != nil {
			t.Fatal(err)
		}
		req := get(c.from, "/")
		if c.from == "" {
			req.From = mesh.Identity{}
		}
		if may, d := rules.MayStay(req); may != c.want {
			t.Errorf("%s: it may stay: %v (%s), want %v", c.what, may, d.Reason, c.want)
		}
	}
}

func TestRulesOfAnotherVersionAreNotJudgedBy(t *testing.T) {
	for _, text := range []string{`{"v":2,"to":"api"}`, `{"to":"api"}`, `{`, ``} {
		if r, err := ReadRules([]byte(text)); err == nil {
			t.Errorf("%q is read as %+v", text, r)
		}
	}
}
