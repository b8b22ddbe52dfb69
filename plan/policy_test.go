package plan

import (
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/policy"
)

// What a port's Policy says, judged alone, is what policy.Decide answers from
// the intentions: for every call, and for who may open a connection.
func TestPolicyIsDecide(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		file := mesh.Part{Source: "file", Intentions: []mesh.Intention{drawIntention(t, "api"), drawIntention(t, "*")},
			Services: []mesh.ServiceConfig{{Name: "api", DefaultIntention: pick(t, []mesh.Action{"allow", "deny"}, "default"), Ports: []mesh.Port{
				{Name: "http", Number: 80, Protocol: "http"}, {Name: "db", Number: 81, Protocol: "tcp"}, {Name: "any", Number: 82},
			}}, {Name: "web"}, {Name: "users"}, {Name: "batch-a"}, {Name: "batch-b"}}}
		snap, _ := mesh.Merge(file)
		p, _ := Compile(NewView(snap), proxyOf("api"))
		svc := snap.Service("api")
		for _, in := range p.Inbound {
			said := []*mesh.Intention{{Label: "*", Rules: slices.Concat(in.Policy.Allow, in.Policy.Deny)}}
			for _, from := range []string{"", "api", "web", "users", "batch-a", "batch-b", "ghost"} {
				req := policy.Request{To: "api", Port: in.Name, Method: "GET"}
				if from != "" {
					req.From = mesh.ServiceIdentity("kerege.local", mesh.ServiceName(from))
				}
				for _, path := range []string{"/v1/x", "/v2"} {
					req.Path, req.HTTP = path, in.Protocol != mesh.ProtocolTCP
					want := policy.Decide(snap.Intentions("api"), svc.DefaultIntention, req).Allowed
					if got := policy.Decide(said, in.Policy.Default, req).Allowed; got != want {
						t.Fatalf("port %s, %q %s: the policy says %v, Decide %v", in.Name, from, path, got, want)
					}
				}
				req.HTTP = false
				want := policy.Decide(snap.Intentions("api"), svc.DefaultIntention, req).Allowed
				// Where a prefix decides, only the services that exist can be listed: a
				// stranger is then refused, never admitted.
				if got := opens(in.Policy, req.From); got != want && (got || from != "ghost") {
					t.Fatalf("port %s: may %q open a connection? %v, Decide %v", in.Name, from, got, want)
				}
			}
		}
	})
}

// Who is trusted no more is in the rules of every port, for Envoy and for the node.
func TestWhoWasSentAwayIsInEveryPolicy(t *testing.T) {
	snap, _ := mesh.Merge(mesh.Part{Source: "ca", Away: []string{"b", "a"}}, mesh.Part{Source: "file", Services: []mesh.ServiceConfig{{Name: "api", Ports: []mesh.Port{
		{Name: "http", Number: 80, Protocol: "http"}, {Name: "db", Number: 81, Protocol: "tcp"}}}}})
	p, _ := Compile(NewView(snap), proxyOf("api"))
	for _, in := range p.Inbound {
		rules, err := policy.ReadRules(in.Policy.Open)
		if err != nil || !slices.Equal(in.Policy.Away, []string{"a", "b"}) || !rules.SentAway("a") || !rules.SentAway("b") || rules.SentAway("c") || rules.SentAway("") {
			t.Errorf("port %s: %v, %+v, %v", in.Name, in.Policy.Away, rules, err)
		}
	}
	if len(p.Inbound) != 2 {
		t.Errorf("%d ports", len(p.Inbound))
	}
}

// A port that takes plaintext no more says so to its node, and kerege plan to the operator.
func TestPlaintextThatIsLostIsSaid(t *testing.T) {
	snap := func(mtls mesh.MTLS, open string, from ...string) *mesh.Snapshot {
		s, _ := mesh.Merge(mesh.Part{Source: "file", Services: []mesh.ServiceConfig{{Name: "web"}, {Name: "api", MTLS: mtls, Ports: []mesh.Port{
			{Name: "http", Number: 80, Protocol: "http"}, {Name: "db", Number: 81, Protocol: "tcp"}}}},
			Intentions: []mesh.Intention{{Label: "api", Open: open, Rules: []mesh.Permission{{Action: mesh.ActionAllow, From: from}}}}})
		return s
	}
	for _, c := range []struct {
		what     string
		old, new *mesh.Snapshot
		want     []string
	}{
		{"strict now", snap(mesh.MTLSPermissive, "", "*"), snap(mesh.MTLSStrict, "", "*"), []string{"cut", "cut"}},
		{"strict now, they finish", snap(mesh.MTLSDisabled, "", "*"), snap(mesh.MTLSStrict, "finish", "*"), []string{"finish", "finish"}},
		{"permissive now", snap(mesh.MTLSStrict, "", "*"), snap(mesh.MTLSPermissive, "", "*"), nil},
		{"strict before", snap(mesh.MTLSStrict, "", "*"), snap(mesh.MTLSStrict, "", "*", "web"), nil},
		{"they had no right", snap(mesh.MTLSPermissive, "", "web"), snap(mesh.MTLSStrict, "", "web"), nil},
	} {
		calls, _ := Changes(c.old, c.new, nil)
		var got []string
		for _, call := range calls {
			if call.From != Plaintext || call.To != "api" || call.Now != everything || !call.Loses() {
				t.Errorf("%s: %+v", c.what, call)
			}
			got = append(got, call.Open)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", c.what, got, c.want)
		}
		for _, s := range []*mesh.Snapshot{c.old, c.new} {
			p, _ := Compile(NewView(s), proxyOf("api"))
			for _, in := range p.Inbound {
				if rules, err := policy.ReadRules(in.Policy.Open); err != nil || rules.Strict != (in.MTLS == mesh.MTLSStrict) {
					t.Errorf("%s: port %s is %s, its rules are strict: %v, %v", c.what, in.Name, in.MTLS, rules.Strict, err)
				}
			}
		}
	}
}

func opens(p *Policy, id mesh.Identity) bool {
	switch {
	case id == (mesh.Identity{}):
		return p.Plaintext
	case p.AnyCaller:
		return !slices.Contains(p.Deniers, id)
	}
	return slices.Contains(p.Callers, id)
}
