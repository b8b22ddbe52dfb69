package xds

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kerege/kerege/config"
	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/plan"
)

// languagePlans compiles, from a file of the language, the plan of a proxy before
// each of its services, each with two instances, one of them in the mesh.
func languagePlans(t *testing.T, path string, bundle []byte) map[mesh.ServiceName]*plan.Proxy {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	m, diags := config.LoadBytes(map[string][]byte{filepath.Base(path): text})
	if m == nil {
		t.Fatal(diags)
	}
	part := m.Part()
	// Everybody sees everybody, so that each proxy has every upstream.
	part.Intentions = append(part.Intentions, mesh.Intention{Label: "*", Rules: []mesh.Permission{{Action: mesh.ActionAllow, From: []string{"*"}}}})
	names := map[mesh.ServiceName]bool{"web": true, "api": true}
	for _, s := range part.Services {
		names[s.Name] = true
	}
	for _, r := range part.Routes {
		names[r.Service] = true
		for _, rule := range r.Rules {
			for _, to := range rule.To {
				names[to.Service] = true
			}
		}
	}
	more := mesh.Part{Source: "nomad"}
	vips := mesh.Part{Source: "vips"}
	members := mesh.Part{Source: "members"}
	n := byte(1)
	for _, name := range sortedKeys(names) {
		for i, node := range []string{"n1", "n2"} {
			at := netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 9, n, byte(i + 1)}), 8080)
			more.Instances = append(more.Instances, mesh.Instance{
				Service: name, ID: string(name) + node, Source: "nomad", Node: node, Addr: at, Weight: 1, Meta: map[string]string{"version": "v1"},
			})
		}
		members.Members = append(members.Members, mesh.Member{Service: name, Node: "n1"})
		vips.VIPs = append(vips.VIPs, mesh.VIP{Service: name, V4: netip.AddrFrom4([4]byte{240, 0, 1, n})})
		n++
	}
	snap, conflicts := mesh.Merge(part, more, vips, members, mesh.Part{Source: "ca", Bundle: bundle})
	for _, c := range conflicts {
		t.Logf("conflict: %v %s", c.Key, c.What)
	}
	out := map[mesh.ServiceName]*plan.Proxy{}
	for name := range names {
		p, problems := plan.Compile(plan.NewView(snap), plan.Node{ID: mesh.ProxyID{Service: name, Node: "n1"}, InboundPort: 15006, OutboundPort: 15001})
		for _, pr := range problems {
			t.Logf("problem: %v %s", pr.Where, pr.What)
		}
		if p != nil {
			out[name] = p
		}
	}
	return out
}

func languageFiles(t *testing.T) []string {
	t.Helper()
	var out []string
	for _, pattern := range []string{"../examples/language/*.hcl", "../examples/tasks/*.hcl"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			if !strings.HasSuffix(f, "agent.hcl") { // a node's settings
				out = append(out, f)
			}
		}
	}
	if len(out) < 5 {
		t.Fatalf("only %d files of the language", len(out))
	}
	return out
}

// What a user can write becomes resources that pass their own validation.
func TestTheLanguageTranslates(t *testing.T) {
	tr, n := NewTranslator(), 0
	for _, path := range languageFiles(t) {
		t.Run(filepath.Base(path), func(t *testing.T) {
			for name, p := range languagePlans(t, path, []byte("roots")) {
				set, err := tr.Translate(p)
				if err != nil {
					t.Errorf("%s: %v", name, err)
					continue
				}
				for _, g := range set.Groups {
					for _, r := range g.Resources {
						n += valid(t, string(name)+" "+r.Name, r.Body)
					}
				}
			}
		})
	}
	if n < 500 {
		t.Errorf("only %d messages were judged", n)
	}
}
