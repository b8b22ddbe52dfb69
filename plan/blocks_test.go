package plan

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kerege/kerege/mesh"
)

func at(line int) mesh.Pos { return mesh.Pos{File: "m.hcl", Line: line} }

// TestBlocks: every edit of the files is said in the files' own words, with its line.
func TestBlocks(t *testing.T) {
	weigh := func(line int, share uint32) mesh.Target {
		x := to("api.v2", int(share))
		x.Pos = at(line)
		return x
	}
	base := func(edit func(*mesh.Part)) mesh.Part {
		p := mesh.Part{
			Mesh: &mesh.Config{TrustDomain: "test.example", MTLS: mesh.MTLSPermissive},
			Services: []mesh.ServiceConfig{{Name: "api", Pos: at(1), Ports: []mesh.Port{{Name: "http", Number: 8080}},
				Subsets: []mesh.Subset{{Name: "v2", Filter: `"v2" in Tags`, Pos: at(2)}}}},
			Instances: []mesh.Instance{{Service: "api", ID: "api-1", Weight: 1}},
			Routes: []mesh.Route{{Service: "api", Pos: at(10), Rules: []mesh.Rule{
				{Name: "slow", Pos: at(11), Timeout: new(time.Second), Matches: []mesh.Match{{Path: "/slow"}}},
				{Name: "canary", Pos: at(14), To: []mesh.Target{weigh(15, 1000), to("api.v1", 9000)}}}}},
			Intentions: []mesh.Intention{{Label: "api", Pos: at(30), Rules: []mesh.Permission{allow("web"), allow("batch")}}},
		}
		if edit != nil {
			edit(&p)
		}
		return p
	}
	for _, c := range []struct {
		what string
		edit func(*mesh.Part)
		want string
	}{
		{"nothing", func(p *mesh.Part) { p.Routes[0].Rules[0].Pos.Line = 99; p.Services[0].Subsets[0].Match = hasTag("v2") }, ""},
		{"a weight", func(p *mesh.Part) { p.Routes[0].Rules[1].To[0] = weigh(15, 9900) }, `route "api" changed: rule "canary": to "api.v2": weight 10 % → 99 % [m.hcl:15]`},
		{"a timeout", func(p *mesh.Part) { p.Routes[0].Rules[0].Timeout = new(mesh.None) }, `route "api" changed: rule "slow": timeout 1s → none [m.hcl:11]`},
		{"a retry", func(p *mesh.Part) { p.Routes[0].Rules[0].Retry = &mesh.Retry{Times: new(3), Pos: at(12)} }, `route "api" changed: rule "slow": retry added: times 3 [m.hcl:12]`},
		{"a match", func(p *mesh.Part) { p.Routes[0].Rules[0].Matches = []mesh.Match{{Path: "/slower"}} }, `route "api" changed: rule "slow": match: path /slow → /slower [m.hcl:11]`},
		{"a header", func(p *mesh.Part) {
			p.Routes[0].Rules[1].RequestHeaders = &mesh.HeaderOps{Set: map[string]string{"x-a": "1"}, Pos: at(16)}
		}, `route "api" changed: rule "canary": request_headers added: set x-a = "1" [m.hcl:16]`},
		{"a redirect", func(p *mesh.Part) {
			p.Routes[0].Rules[1].To, p.Routes[0].Rules[1].Redirect = nil, &mesh.Redirect{Host: "a.example", Code: 308, Pos: at(15)}
		}, `route "api" changed: rule "canary": to "api.v2" removed [m.hcl:15], rule "canary": to "api.v1" removed [], rule "canary": redirect added: host a.example, code 308 [m.hcl:15]`},
		{"order", func(p *mesh.Part) { r := p.Routes[0].Rules; r[0], r[1] = r[1], r[0] }, `route "api" changed: rules reordered: slow, canary → canary, slow [m.hcl:10]`},
		{"a rule goes", func(p *mesh.Part) { p.Routes[0].Rules = p.Routes[0].Rules[1:] }, `route "api" changed: rule "slow" removed [m.hcl:11]`},
		{"a rule comes", func(p *mesh.Part) {
			p.Routes[0].Rules = append(p.Routes[0].Rules, mesh.Rule{Name: "tea", Respond: &mesh.Respond{Status: 418}, Pos: at(20)})
		}, `route "api" changed: rule "tea" added: respond (status 418) [m.hcl:20]`},
		{"a right goes", func(p *mesh.Part) { p.Intentions[0].Rules = p.Intentions[0].Rules[1:] }, `intention "api" changed: allow of web removed [i.hcl:2]`},
		{"open", func(p *mesh.Part) { p.Intentions[0].Open = "finish" }, `intention "api" changed: open not said → finish [m.hcl:30]`},
		{"a block comes", func(p *mesh.Part) { p.Intentions = append(p.Intentions, mesh.Intention{Label: "db", Pos: at(40)}) }, `intention "db" added [m.hcl:40]`},
		{"a block goes", func(p *mesh.Part) { p.Services = nil }, `service "api" removed [m.hcl:1]`},
		{"tuning", func(p *mesh.Part) {
			p.Services[0].MTLS, p.Services[0].IdleTimeout, p.Services[0].Places = mesh.MTLSStrict, new(time.Minute), &mesh.Places{Nodes: []string{"vm-1"}}
		}, `service "api" changed: idle_timeout not said → 1m0s [m.hcl:1], nodes not said → vm-1 [m.hcl:1], mtls not said → strict [m.hcl:1]`},
		{"a filter", func(p *mesh.Part) { p.Services[0].Subsets[0].Filter = "Meta.v == 2" }, `service "api" changed: subset "v2": filter "v2" in Tags → Meta.v == 2 [m.hcl:2]`},
		{"an instance", func(p *mesh.Part) { p.Instances[0].Weight = 3 }, `instance "api/api-1" changed: weight 1 → 3 []`},
		{"the mesh", func(p *mesh.Part) { p.Mesh.MTLS = mesh.MTLSStrict }, `mesh changed: mtls permissive → strict []`},
	} {
		if got := blockText(Blocks(base(nil), base(c.edit))); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.what, got, c.want)
		}
	}
}

func blockText(all []BlockChange) string {
	var out []string
	for _, b := range all {
		line := b.Block + " " + b.How
		if len(b.Edits) == 0 {
			line += fmt.Sprintf(" [%s]", b.Pos)
		}
		var edits []string
		for _, e := range b.Edits {
			where := ""
			if e.Pos != (mesh.Pos{}) {
				where = e.Pos.String()
			}
			edits = append(edits, fmt.Sprintf("%s [%s]", e.What, where))
		}
		if len(edits) > 0 {
			line += ": " + strings.Join(edits, ", ")
		}
		out = append(out, line)
	}
	return strings.Join(out, "; ")
}
