package policy

import (
	"bytes"
	"testing"

	"github.com/kerege/kerege/mesh"
)

// FuzzReadRules feeds a node any bytes for rules: they are refused, or judged by
// and written again as the same.
func FuzzReadRules(f *testing.F) {
	f.Add([]byte(`{"v":1,"to":"api","default":"deny","intentions":[{"label":"*","open":"finish","rules":[{"action":"allow","from":["web","b*"],"except":["bad"],"path_regex":"^/a(b|c)+$"}]}]}`))
	f.Add([]byte(`{"v":1,"intentions":[{"rules":[{"from":null}]}]}`))
	f.Add([]byte(`{"v":2}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := ReadRules(text)
		if err != nil {
			return
		}
		again, err := ReadRules(r.Text())
		if err != nil || !bytes.Equal(again.Text(), r.Text()) {
			t.Fatalf("%q is written as %q, read as %q, %v", text, r.Text(), again.Text(), err)
		}
		req := Request{From: mesh.Identity{TrustDomain: "a", Name: "web"}, Method: "GET", Path: "/a"}
		may, d := r.MayStay(req)
		if d.Allowed && !may {
			t.Fatal("what is allowed may not stay")
		}
	})
}
