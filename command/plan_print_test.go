package command

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/kerege/kerege/api"
)

// page prints something on a terminal of 80 columns, and no line is wider.
func page(t *testing.T, show func(*Call)) string {
	t.Helper()
	var out bytes.Buffer
	show(&Call{terminal: terminal{out: &out, err: &out, wide: 80}})
	for line := range strings.Lines(out.String()) {
		if n := width(strings.TrimRight(line, "\n")); n > 80 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	return out.String()
}

// same holds a page against what it should be, and shows both.
func same(t *testing.T, got, want string) {
	t.Helper()
	if got != strings.TrimLeft(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func somePlan() api.Plan {
	return api.Plan{Generation: 3, Changes: true, Apply: true, Files: []string{"/etc/kerege.d/mesh/mesh.hcl"},
		Blocks: []api.BlockChange{
			{Block: `route "api"`, How: "changed", Where: "mesh.hcl:12", Edits: []api.BlockEdit{{What: `rule "canary": to "api.v2": weight 10 % → 99 %`, Where: "/etc/kerege.d/mesh/mesh.hcl:15"}}},
			{Block: `intention "db"`, How: "added", Where: "mesh.hcl:40"},
		},
		Calls: []api.CallChange{{From: "web", To: "ledger:9000", Now: "everything", Then: "refused", Open: "cut", Where: "/etc/kerege.d/mesh/mesh.hcl:30"}},
		Cut:   []api.Cut{{From: "web", To: "ledger:9000"}},
		Proxies: []api.ProxyChange{{Proxy: "web/vm-1", Changed: []string{"Cluster api.v2:8080", "Cluster api:8080", "ClusterLoadAssignment api:8080",
			"Listener upstream/api:8080", "RouteConfiguration api:8080", "Secret callers:web:80", "Secret open:web:80", "TypedExtensionConfig rbac:web:80"}}},
	}
}

func TestPlanPage(t *testing.T) {
	same(t, page(t, func(c *Call) { printPlan(c, somePlan(), false) }), `
Changed since generation 3: /etc/kerege.d/mesh/mesh.hcl

route "api"
  rule "canary": to "api.v2": weight 10 % → 99 %  /etc/kerege.d/mesh/mesh.hcl:15
intention "db" added  mesh.hcl:40

- web → ledger:9000:  everything → refused; open ones are cut
    /etc/kerege.d/mesh/mesh.hcl:30

1 proxy is sent something:
  web/vm-1  1 listener, 1 route, 2 clusters, 1 endpoint list of api; 1 policy of
            web
0 listeners drain; open connections of 1 caller are cut (web → ledger:9000).

Apply: kerege apply
`)
	if text := page(t, func(c *Call) { printPlan(c, somePlan(), true) }); !strings.Contains(text, "RouteConfiguration api:8080") {
		t.Errorf("-resources names none:\n%s", text)
	}
	quiet := somePlan()
	quiet.Cut, quiet.Calls = nil, nil
	if text := page(t, func(c *Call) { printPlan(c, quiet, false) }); !strings.Contains(text, "0 listeners drain; no open connection is cut for a lost right.") {
		t.Errorf("%s", text)
	}
	quiet.Proxies[0].Drains = []string{"upstream/api:8080"}
	if text := page(t, func(c *Call) { printPlan(c, quiet, false) }); !strings.Contains(text, "1 listener drains, and connections on it are closed") {
		t.Errorf("%s", text)
	}
}

// While frozen the page ends with what has to be typed, and says what it is held against.
func TestPlanPageWhileFrozen(t *testing.T) {
	since := time.Now().Add(-time.Minute)
	for _, c := range []struct {
		frozen api.Frozen
		apply  bool
		want   []string
	}{
		{api.Frozen{Since: since, Generation: 2, Waiting: 2}, false, []string{"held against what the proxies have, generation 2; 2\n  changes wait.", "Changed since generation 2: ", "It is applied, and waits: kerege thaw"}},
		{api.Frozen{Since: since, Generation: 2, Waiting: 2}, true, []string{"Apply: kerege apply, and send it: kerege thaw"}},
		{api.Frozen{Since: since, Generation: 2, Unknown: true}, false, []string{"does not know", "Which proxies are sent what shows after kerege thaw."}},
	} {
		p := somePlan()
		p.Frozen, p.Apply = &c.frozen, c.apply
		text := page(t, func(call *Call) { printPlan(call, p, false) })
		for _, w := range c.want {
			if !strings.Contains(text, w) {
				t.Errorf("%+v: %q is missing in\n%s", c.frozen, w, text)
			}
		}
	}
}

func TestExplainPage(t *testing.T) {
	e := api.Explain{Verdict: "allowed", Allowed: true, Thawed: "refused", Frozen: &api.Frozen{Since: time.Now(), Waiting: 1}, Steps: []api.ExplainStep{
		{Step: "request", What: "web calls api."},
		{Step: "listener", What: "A program that dials an instance's own address gets that instance: no route, split or retry, and the same decision.",
			List: []string{"10.0.0.1:8080 held: is not in the mesh: the agent of vm-2 has not said that it is captured and has its identity"}},
		{Step: "decision", What: `api: allowed by an allow block of the intention "api".`, Where: "/etc/kerege.d/mesh/mesh.hcl:20"},
	}}
	text := page(t, func(c *Call) { printExplain(c, e, false) })
	said := func(text string) string { return strings.Join(strings.Fields(text), " ") }
	before, after, _ := strings.Cut(text, "frozen since ")
	same(t, before, `
request   web calls api.
listener  A program that dials an instance's own address gets that instance: no
          route, split or retry, and the same decision.
            10.0.0.1:8080 held: is not in the mesh: the agent of vm-2 has not
              said that it is captured and has its identity
decision  api: allowed by an allow block of the intention "api".
          /etc/kerege.d/mesh/mesh.hcl:20

allowed
`)
	if !strings.Contains(said(after), ": 1 change waits; after kerege thaw: refused. With -applied to see how.") {
		t.Errorf("%s", after)
	}
	e.Thawed = "allowed"
	if text := page(t, func(c *Call) { printExplain(c, e, false) }); !strings.Contains(said(text), "kerege thaw changes how this call goes") {
		t.Errorf("%s", text)
	}
	e.Thawed = ""
	if text := page(t, func(c *Call) { printExplain(c, e, false) }); !strings.Contains(said(text), "thaw changes nothing for this call") {
		t.Errorf("%s", text)
	}
	if text := page(t, func(c *Call) { printExplain(c, e, true) }); !strings.Contains(said(text), "not what the proxies have") {
		t.Errorf("%s", text)
	}
}

func TestCutWords(t *testing.T) {
	var all []api.Cut
	for _, from := range []string{"a", "b", "c", "d", "e", "f", "f"} {
		all = append(all, api.Cut{From: from, To: "db:1"})
	}
	if got, want := cutWords(all), "open connections of 6 callers are cut (a → db:1, b → db:1, c → db:1, d → db:1, e → db:1 and 2 more)"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	text := page(t, func(c *Call) { printCut(c, api.Applied{Cut: all[:1]}) })
	same(t, text, "Open connections of 1 caller are cut (a → db:1).\n")
}

func TestInWords(t *testing.T) {
	for _, c := range []struct {
		list []string
		want string
	}{
		{[]string{"Secret open:web:8080", "Secret callers:web:8080", "TypedExtensionConfig rbac:web:8081"}, "2 policies of web"},
		{[]string{"Listener outbound", "Listener direct/10.0.0.7:8080", "Listener direct/[fd00::7]:80", "Cluster inbound/8080"}, "3 listeners, 1 cluster"},
		{[]string{"Cluster direct/api:8080", "Cluster direct/api:8080/plaintext", "RouteConfiguration b:1"}, "2 clusters of api; 1 route of b"},
		{[]string{"Something x"}, "1 other resource"},
	} {
		if got := inWords(c.list); got != c.want {
			t.Errorf("%v: %q, want %q", c.list, got, c.want)
		}
	}
}
