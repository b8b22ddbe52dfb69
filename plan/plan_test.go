package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kerege/kerege/mesh"
)

func inst(svc, addr string, tags ...string) mesh.Instance {
	return mesh.Instance{Service: mesh.ServiceName(svc), ID: svc + addr, Source: "consul", Node: "n-" + svc, Addr: netip.MustParseAddrPort(addr), Tags: tags}
}

func consul(svc string, list ...mesh.Instance) mesh.Part {
	return mesh.Part{Source: "consul", Scope: svc, Instances: list}
}

func members(svc string) mesh.Part {
	return mesh.Part{Source: "members", Scope: svc, Members: []mesh.Member{{Service: mesh.ServiceName(svc), Node: "n-" + svc}}}
}

func allow(from ...string) mesh.Permission {
	return mesh.Permission{Action: mesh.ActionAllow, From: from, Pos: mesh.Pos{File: "i.hcl", Line: 2}}
}

func deny(from ...string) mesh.Permission {
	return mesh.Permission{Action: mesh.ActionDeny, From: from, Pos: mesh.Pos{File: "i.hcl", Line: 5}}
}

func intention(label string, rules ...mesh.Permission) mesh.Intention {
	return mesh.Intention{Label: label, Rules: rules}
}

func to(name string, weight int) mesh.Target {
	svc, sub, _ := strings.Cut(name, ".")
	t := mesh.Target{Service: mesh.ServiceName(svc), Subset: sub}
	if weight >= 0 {
		t.Weight = new(uint32(weight))
	}
	return t
}

func proxyOf(svc string) Node {
	return Node{ID: mesh.ProxyID{Service: mesh.ServiceName(svc), Node: "n-" + svc}, InboundPort: 15006, OutboundPort: 15001}
}

// canary is api with two subsets, called by web, and users beside it.
func canary(rules ...mesh.Rule) []mesh.Part {
	return []mesh.Part{
		consul("api", inst("api", "10.0.0.1:8080", "v1"), inst("api", "10.0.0.2:8080", "v2")), members("api"),
		consul("users", inst("users", "10.0.0.3:7000")), members("users"),
		consul("web", inst("web", "10.0.0.4:80")), members("web"),
		{Source: "file", Services: []mesh.ServiceConfig{{Name: "api", Tuning: mesh.Tuning{Protocol: "http"}, Subsets: []mesh.Subset{
			{Name: "v1", Match: hasTag("v1")}, {Name: "v2", Match: hasTag("v2")}, {Name: "none", Match: hasTag("none"), Pos: mesh.Pos{File: "s.hcl", Line: 9}}}}},
			Routes:     []mesh.Route{{Service: "api", Rules: rules, Pos: mesh.Pos{File: "r.hcl", Line: 1}}},
			Intentions: []mesh.Intention{intention("api", allow("web"))}},
	}
}

func outbound(t *testing.T, node Node, parts ...mesh.Part) *UpstreamPort {
	t.Helper()
	snap, conflicts := mesh.Merge(parts...)
	if len(conflicts) > 0 {
		t.Fatal(conflicts)
	}
	p, _ := Compile(NewView(snap), node)
	if len(p.Outbound) != 1 || len(p.Outbound[0].Ports) != 1 {
		t.Fatalf("outbound: %+v", p.Outbound)
	}
	return &p.Outbound[0].Ports[0]
}

func TestSplits(t *testing.T) {
	for _, c := range []struct {
		what string
		to   []mesh.Target
		want string
	}{
		{"as written", []mesh.Target{to("api.v2", 1000), to("api.v1", 9000)}, "[{api.v1:8080 9000} {api.v2:8080 1000}]"},
		{"the rest", []mesh.Target{to("api.v2", 1), to("api.v1", -1)}, "[{api.v1:8080 9999} {api.v2:8080 1}]"},
		{"one alone", []mesh.Target{to("api.v2", -1)}, "[{api.v2:8080 10000}]"},
		{"none", nil, "[{api:8080 10000}]"},
		{"an empty one gives its share", []mesh.Target{to("api.none", 5000), to("api.v1", 2500), to("api.v2", 2500)}, "[{api.v1:8080 5000} {api.v2:8080 5000}]"},
		{"an empty one gives all", []mesh.Target{to("api.none", 10000), to("api.v1", 0)}, "[{api.v1:8080 10000}]"},
		{"all are empty", []mesh.Target{to("api.none", -1)}, "[{api.none:8080 10000}]"},
		{"elsewhere", []mesh.Target{to("users", -1)}, "[{users:7000 10000}]"},
		{"thirds", []mesh.Target{to("api.none", 1), to("api.v1", 3333), to("api.v2", 6666)}, "[{api.v1:8080 3333} {api.v2:8080 6667}]"},
		{"no such service", []mesh.Target{to("ghost", 5000), to("api.v1", 5000)}, "[{api.v1:8080 10000}]"},
	} {
		p := outbound(t, proxyOf("web"), canary(mesh.Rule{Name: "r", To: c.to})...)
		if got := fmt.Sprint(p.Route.Rules[0].To); got != c.want {
			t.Errorf("%s: %s, want %s", c.what, got, c.want)
		}
		if p.Route.Rules[0].Respond != nil || len(p.Route.Rules) != 1 {
			t.Errorf("%s: %+v", c.what, p.Route.Rules)
		}
	}
	fail := to("api.none", 5000)
	fail.IfEmpty = "fail"
	p := outbound(t, proxyOf("web"), canary(mesh.Rule{Name: "r", To: []mesh.Target{fail, to("api.v1", -1)}})...)
	if got := fmt.Sprint(p.Route.Rules[0].To); got != "[{api.none:8080 5000} {api.v1:8080 5000}]" {
		t.Errorf("fail keeps its share: %s", got)
	}
	p = outbound(t, proxyOf("web"), canary(mesh.Rule{Name: "r", To: []mesh.Target{to("ghost", -1)}})...)
	if r := p.Route.Rules[0]; r.To != nil || r.Respond == nil || r.Respond.Status != 503 {
		t.Errorf("a rule without an existing target: %+v", r)
	}
}

func TestRulesAreForTheirCallersAndPorts(t *testing.T) {
	rules := []mesh.Rule{
		{Name: "web", Matches: []mesh.Match{{From: []string{"web"}, PathPrefix: "/a"}}, To: []mesh.Target{to("api.v2", -1)}, Pos: mesh.Pos{Line: 1}},
		{Name: "batch", Matches: []mesh.Match{{From: []string{"batch"}}}, To: []mesh.Target{to("api.v1", -1)}},
		{Name: "admin", Port: "admin"},
	}
	parts := append(canary(rules...), mesh.Part{Source: "file", Scope: "2", Intentions: []mesh.Intention{intention("api", allow("batch", "users"))}})
	names := func(svc string) (list []string) {
		for _, r := range outbound(t, proxyOf(svc), parts...).Route.Rules {
			list = append(list, r.Name)
			for _, m := range r.Matches {
				if m.From != nil {
					t.Errorf("%s: from is left in %+v", svc, m)
				}
			}
		}
		return list
	}
	for svc, want := range map[string]string{"web": "[web ]", "batch": "[batch]", "users": "[]"} {
		if got := fmt.Sprint(names(svc)); got != want {
			t.Errorf("%s: %s, want %s", svc, got, want)
		}
	}
	snap, _ := mesh.Merge(parts...)
	c := NewCompiler(snap)
	for _, n := range []string{"web", "batch", "users"} {
		c.Add(proxyOf(n))
	}
	up := func(n string) *Upstream { p, _ := c.Proxy(proxyOf(n).ID); return p.Outbound[0] }
	if up("web") == up("batch") || up("web") == up("users") {
		t.Error("callers that the route names share an upstream")
	}
	if up("web").Ports[0].Clusters[0] != up("users").Ports[0].Clusters[0] {
		t.Error("the clusters are not shared")
	}
}

func TestMTLSAndHealthOfEndpoints(t *testing.T) {
	sick := inst("api", "10.0.0.2:8080")
	sick.Health, sick.Node, sick.Weight = mesh.Unhealthy, "elsewhere", 3
	for mode, want := range map[mesh.MTLS]string{
		mesh.MTLSStrict:     "[{10.0.0.1:8080 1 0 true}]",
		mesh.MTLSPermissive: "[{10.0.0.1:8080 1 0 true} {10.0.0.2:8080 3 2 false}]",
		mesh.MTLSDisabled:   "[{10.0.0.1:8080 1 0 false} {10.0.0.2:8080 3 2 false}]",
	} {
		pinned := inst("api", "10.0.0.3:8080")
		pinned.Node = "pinned-out"
		loop := inst("api", "127.0.0.1:8080")
		parts := []mesh.Part{consul("api", inst("api", "10.0.0.1:8080"), sick, pinned, loop), members("api"),
			{Source: "file", Services: []mesh.ServiceConfig{{Name: "api", MTLS: mode, Tuning: mesh.Tuning{Places: &mesh.Places{Nodes: []string{"n-api", "else*"}}}}},
				Intentions: []mesh.Intention{intention("api", allow("web"))}}}
		p := outbound(t, proxyOf("web"), parts...)
		if got := fmt.Sprint(p.Clusters[0].Endpoints.Groups[0].Endpoints); got != want || p.Clusters[0].MTLS != mode {
			t.Errorf("%s: %s, want %s", mode, got, want)
		}
		snap, _ := mesh.Merge(parts...)
		held := HeldOf(snap, "api")
		barred := slices.DeleteFunc(slices.Clone(held), func(h Held) bool { return h.Instance.Barred == "" })
		if len(barred) != 2 || !strings.Contains(barred[0].Reason, "pinned to") || !strings.Contains(barred[1].Reason, "cannot be called") {
			t.Errorf("%s: barred %v", mode, barred)
		}
		held = slices.DeleteFunc(held, func(h Held) bool { return h.Instance.Barred != "" })
		if (len(held) == 1) != (mode == mesh.MTLSStrict) || len(held) == 1 && !strings.Contains(held[0].Reason, "elsewhere") {
			t.Errorf("%s: held %v", mode, held)
		}
	}
}

func TestKnownZeroInstancesIsAnEmptyCluster(t *testing.T) {
	p := outbound(t, proxyOf("web"), mesh.Part{Source: "file", Services: []mesh.ServiceConfig{{Name: "api"}}, Intentions: []mesh.Intention{intention("api", allow("web"))}})
	if len(p.Clusters) != 1 || p.Clusters[0].Endpoints == nil || len(p.Clusters[0].Endpoints.Groups) != 0 || p.Route == nil || p.TCP == nil {
		t.Errorf("%+v", p)
	}
}

func TestVisible(t *testing.T) {
	file := mesh.Part{Source: "file",
		Services:   []mesh.ServiceConfig{{Name: "api"}, {Name: "users"}, {Name: "web"}, {Name: "open", DefaultIntention: mesh.ActionAllow}},
		Intentions: []mesh.Intention{intention("api", allow("web")), intention("users", deny("web")), intention("web", allow("web"))}}
	see := func(n Node, parts ...mesh.Part) string {
		snap, _ := mesh.Merge(parts...)
		p, _ := Compile(NewView(snap), n)
		var list []string
		for _, up := range p.Outbound {
			list = append(list, string(up.Service))
		}
		return strings.Join(list, " ")
	}
	if got := see(proxyOf("web"), file); got != "api open users web" {
		t.Errorf("deny, web: %s", got)
	}
	if got := see(proxyOf("other"), file); got != "open" {
		t.Errorf("deny, other: %s", got)
	}
	kept := mesh.Part{Source: "retained", Retained: []mesh.Pair{{From: "other", To: "api"}}}
	if got := see(proxyOf("other"), file, kept); got != "api open" {
		t.Errorf("a right lost lately: %s", got)
	}
	file.Mesh = &mesh.Config{DefaultIntention: mesh.ActionAllow}
	if got := see(proxyOf("other"), file); got != "api open users web" {
		t.Errorf("allow, other: %s", got)
	}
	n := proxyOf("web")
	n.Explicit = []Explicit{{Service: "users", Port: 80, LocalPort: 9000}}
	if got := see(n, file); got != "users" {
		t.Errorf("explicit: %s", got)
	}
}

func TestInbound(t *testing.T) {
	in := func(parts ...mesh.Part) string {
		snap, _ := mesh.Merge(parts...)
		p, _ := Compile(NewView(snap), Node{ID: mesh.ProxyID{Service: "api", Node: "n-api"}})
		var list []string
		for _, i := range p.Inbound {
			list = append(list, fmt.Sprintf("%d→%d %s %s", i.Number, i.Port, i.Name, i.Policy.Name))
		}
		return strings.Join(list, ", ")
	}
	away := inst("api", "10.0.0.9:9999")
	away.Node = "other"
	two := mesh.Part{Source: "file", Services: []mesh.ServiceConfig{{Name: "api", Ports: []mesh.Port{{Name: "http", Number: 8080}, {Name: "grpc", Number: 9090}}}}}
	one := mesh.Part{Source: "file", Services: []mesh.ServiceConfig{{Name: "api", Ports: []mesh.Port{{Name: "http", Number: 80}}}}}
	for _, c := range []struct {
		what  string
		parts []mesh.Part
		want  string
	}{
		{"shared port", []mesh.Part{consul("api", inst("api", "10.0.0.1:8080"))}, "8080→8080  api:8080"},
		{"a registered dynamic port", []mesh.Part{consul("api", inst("api", "10.0.0.1:23001"), away), one}, "23001→80 http api:80"},
		{"two ports, registered on one", []mesh.Part{consul("api", inst("api", "10.0.0.1:8080"), away), two}, "8080→8080 http api:8080, 9090→9090 grpc api:9090"},
		{"not registered yet", []mesh.Part{two}, "8080→8080 http api:8080, 9090→9090 grpc api:9090"},
		{"unknown", nil, ""},
	} {
		if got := in(c.parts...); got != c.want {
			t.Errorf("%s: %q, want %q", c.what, got, c.want)
		}
	}
}

func TestPolicyOfAPort(t *testing.T) {
	get := allow("web")
	get.Methods = []string{"GET"}
	grpcOnly := allow("indexer")
	grpcOnly.Ports = []string{"db"}
	noAdmin := deny("ops")
	noAdmin.PathPrefix = "/admin"
	snap, _ := mesh.Merge(mesh.Part{Source: "ca", Bundle: []byte("roots")}, mesh.Part{Source: "file",
		Services: []mesh.ServiceConfig{{Name: "api", Ports: []mesh.Port{{Name: "http", Number: 80, Protocol: "http"}, {Name: "db", Number: 81, Protocol: "tcp"}}},
			{Name: "batch-a"}, {Name: "web"}},
		Intentions: []mesh.Intention{intention("api", get, grpcOnly, noAdmin, allow("ops", "batch-*"))}})
	p, problems := Compile(NewView(snap), proxyOf("api"))
	http, db := p.Inbound[0].Policy, p.Inbound[1].Policy
	if len(http.Allow) != 2 || len(http.Deny) != 1 || http.Deny[0].PathPrefix != "/admin" || string(http.Bundle) != "roots\n" {
		t.Errorf("http: %+v", http)
	}
	for _, r := range db.Allow {
		if r.Ports != nil {
			t.Errorf("db: the port's own policy still names ports: %+v", r)
		}
	}
	if len(db.Allow) != 2 || len(db.Deny) != 1 || db.Deny[0].PathPrefix != "" || db.AnyCaller {
		t.Errorf("db: %+v", db)
	}
	if got := fmt.Sprint(db.Callers); !strings.Contains(got, "batch-a") || !strings.Contains(got, "indexer") || strings.Contains(got, "ops") || strings.Contains(got, "web") {
		t.Errorf("db callers: %s", got)
	}
	if len(problems) != 2 {
		t.Errorf("problems: %+v", problems)
	}
}

func TestCallersOfOpenPorts(t *testing.T) {
	policyOf := func(def mesh.Action, rules ...mesh.Permission) *Policy {
		snap, _ := mesh.Merge(mesh.Part{Source: "file", Services: []mesh.ServiceConfig{{Name: "api", DefaultIntention: def}, {Name: "batch-a"}, {Name: "web"}}, Intentions: []mesh.Intention{intention("api", rules...)}})
		p, _ := Compile(NewView(snap), proxyOf("api"))
		return p.Inbound[0].Policy
	}
	star := deny("*")
	star.Except = []string{"web"}
	for _, c := range []struct {
		what             string
		p                *Policy
		any              bool
		callers, deniers string
	}{
		{"all but one", policyOf("", allow("*"), deny("web")), true, "[]", "[web]"},
		{"open by default", policyOf("allow", deny("web")), true, "[]", "[web]"},
		{"a prefix is denied", policyOf("allow", deny("batch-*")), false, "[api web]", "[]"},
		{"nobody", policyOf("", deny("web")), false, "[]", "[]"},
		{"a deny of all with an exception", policyOf("allow", star), false, "[web]", "[]"},
	} {
		short := func(ids []mesh.Identity) string {
			list := []string{}
			for _, id := range ids {
				list = append(list, id.Name)
			}
			return fmt.Sprint(list)
		}
		if c.p.AnyCaller != c.any || short(c.p.Callers) != c.callers || short(c.p.Deniers) != c.deniers {
			t.Errorf("%s: any %v, callers %s, deniers %s", c.what, c.p.AnyCaller, short(c.p.Callers), short(c.p.Deniers))
		}
	}
}

func TestProblems(t *testing.T) {
	rules := []mesh.Rule{
		{Name: "lost", To: []mesh.Target{to("ghost", 5000), to("api.v9", -1)}, Matches: []mesh.Match{{Path: "/x"}}, Pos: mesh.Pos{File: "r.hcl", Line: 3}},
		{Name: "all", Pos: mesh.Pos{File: "r.hcl", Line: 5}},
		{Name: "late", Pos: mesh.Pos{File: "r.hcl", Line: 7}},
		{Name: "where", Port: "nope", Pos: mesh.Pos{File: "r.hcl", Line: 9}},
	}
	snap, _ := mesh.Merge(canary(rules...)...)
	_, problems := Compile(NewView(snap), proxyOf("web"))
	var got []string
	for _, p := range problems {
		got = append(got, p.Pos.String()+" "+p.What)
	}
	want := []string{
		"s.hcl:9 The subset api.none matches none of the 2 instances of api.",
		`r.hcl:3 The rule "lost" of the route api goes to api.v9, and api has no subset "v9".`,
		`r.hcl:3 The rule "lost" of the route api goes to ghost, which is no service.`,
		`r.hcl:7 The rule "late" of the route api is never reached on port 8080: a rule before it matches everything.`,
		`r.hcl:9 The rule "where" of the route api is for port "nope", which the service does not have.`,
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(problems, Check(NewView(snap))); d != "" {
		t.Errorf("Check finds other problems: %s", d)
	}
}

// One endpoint's change replaces the endpoints and what holds them, and nothing else.
func TestAChangeStopsWhereItIsEqual(t *testing.T) {
	parts := canary(mesh.Rule{Name: "r", Matches: []mesh.Match{{Path: "/x"}}, To: []mesh.Target{to("api.v1", 5000), to("api.v2", -1)}})
	snap, _ := mesh.Merge(parts...)
	c := NewCompiler(snap)
	for _, n := range []string{"web", "users", "api"} {
		c.Add(proxyOf(n))
	}
	was, _ := c.Proxy(proxyOf("web").ID)
	sick := inst("api", "10.0.0.2:8080", "v2")
	sick.Health = mesh.Draining
	next, keys := snap.With(consul("api", inst("api", "10.0.0.1:8080", "v1"), sick))
	dirty := c.Update(next, keys)
	if len(dirty) != 1 || dirty[0] != proxyOf("web").ID {
		t.Fatalf("dirty: %v (keys %v)", dirty, keys)
	}
	is := c.Plan(proxyOf("web").ID)
	a, b := was.Outbound[0].Ports[0], is.Outbound[0].Ports[0]
	if a.Route != b.Route {
		t.Error("the route was made anew")
	}
	same := map[string]bool{}
	for i := range a.Clusters {
		same[a.Clusters[i].Name] = a.Clusters[i] == b.Clusters[i]
	}
	if d := cmp.Diff(map[string]bool{"api:8080": false, "api.v1:8080": true, "api.v2:8080": false, "api.none:8080": true}, same); d != "" {
		t.Errorf("clusters that kept their pointer: %s", d)
	}
	if dirty := c.Update(next, keys); len(dirty) != 0 {
		t.Errorf("the same snapshot again: %v", dirty)
	}
}

// What the route says of web comes to the same as for all, and then no longer does.
func TestACallerOfItsOwnIsChosenAnew(t *testing.T) {
	web := mesh.Rule{Name: "web", Matches: []mesh.Match{{From: []string{"web"}}}, To: []mesh.Target{to("api.v1", -1)}}
	all := mesh.Rule{Name: "all", To: []mesh.Target{to("api.v2", -1)}}
	snap, _ := mesh.Merge(canary(all, web)...)
	c := NewCompiler(snap)
	for _, rules := range [][]mesh.Rule{{web, all}, {all, web}, {all}, {web}} {
		c.Add(proxyOf("web"))
		next, keys := snap.With(canary(rules...)...)
		snap = next
		c.Update(snap, keys)
		kept, _ := c.Proxy(proxyOf("web").ID)
		want, _ := Compile(NewView(snap), proxyOf("web"))
		if d := cmp.Diff(want, kept, equal); d != "" {
			t.Errorf("%v: %s", rules, d)
		}
	}
}

func TestAClusterThatChangesKeepsItsEndpoints(t *testing.T) {
	snap, _ := mesh.Merge(canary()...)
	c := NewCompiler(snap)
	was := c.Add(proxyOf("web"))
	snap, keys := snap.With(mesh.Part{Source: "file", Scope: "2", Defaults: []mesh.Defaults{{Label: "*", Tuning: mesh.Tuning{Balance: &mesh.Balance{Policy: "random"}}}}})
	c.Update(snap, keys)
	is := c.Plan(proxyOf("web").ID)
	a, b := was.Outbound[0].Ports[0].Clusters[0], is.Outbound[0].Ports[0].Clusters[0]
	if a == b || b.Balance.Policy != "random" || a.Endpoints != b.Endpoints {
		t.Errorf("%+v, %+v", a, b)
	}
}
