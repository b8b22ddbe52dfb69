package server

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kerege/kerege/api"
	"github.com/kerege/kerege/e2e/xdsim"
	"github.com/kerege/kerege/mesh"
)

// connected is a rig with api in the mesh and its caller's Envoy connected.
func connected(t *testing.T, mode xdsim.Mode) (*rig, *xdsim.Client) {
	r := newRig(t).start()
	noError(t, r.s.hub.Members().Put(mesh.Member{Service: "api", Node: "vm-2"}, mesh.Member{Service: "web", Node: "vm-1"}))
	c := r.envoy(r.dial(r.nodeCert("vm-1")), "web/vm-1", capture, mode)
	r.waitFor(c, xdsim.Cluster, "api:8080")
	return r, c
}

const bank = `
service "bank" {
  instance "bank-1" {
    address = "10.0.0.3"
    port    = 90
    node    = "vm-3"
  }
}

intention "bank" {
  allow { from = ["web"] }
}
`

func TestApplyIsInForceWhenItAnswers(t *testing.T) {
	r, c := connected(t, xdsim.Mode{})
	r.until("its proxy is synced", func() bool { return local[api.Status](r, "GET", "/v1/status", "").Proxies.Synced == 1 })

	r.write(files + bank)
	p := local[api.Plan](r, "POST", "/v1/plan", "")
	if !p.Changes || p.Generation != 1 || len(p.Files) != 1 || len(p.Diagnostics) != 0 || len(p.Proxies) != 1 || p.Proxies[0].Proxy != "web/vm-1" ||
		!strings.Contains(strings.Join(p.Proxies[0].Changed, ","), "Cluster bank:90") || len(p.Proxies[0].Removed) != 0 {
		t.Errorf("plan %+v", p)
	}
	if len(p.Calls) != 1 || p.Calls[0].From != "web" || p.Calls[0].To != "bank:90" || p.Calls[0].Now != "no such service" && p.Calls[0].Now != "nothing" || !strings.Contains(p.Calls[0].Where, "mesh.hcl") {
		t.Errorf("plan of calls %+v", p.Calls)
	}
	if st := local[api.Status](r, "GET", "/v1/status", ""); st.Generation.Number != 1 || st.Services != 2 || len(st.Differs) != 1 {
		t.Errorf("a plan changed something: %+v", st)
	}
	a := local[api.Applied](r, "POST", "/v1/apply", "")
	if a.Generation != 2 || a.Previous != 1 || a.Proxies != 1 || a.Acknowledged != 1 || len(a.Diagnostics) != 0 {
		t.Errorf("applied %+v", a)
	}
	if c.Held(xdsim.Cluster)["bank:90"] == "" {
		t.Error("it was acknowledged, and the proxy has not got it")
	}
	if e := local[api.Explain](r, "POST", "/v1/explain", `{"from":"web","to":"bank"}`); len(e.Steps) == 0 || e.Fix != "" {
		t.Errorf("%+v", e)
	}
	// What is applied already is no new generation, and nothing is planned.
	if a := local[api.Applied](r, "POST", "/v1/apply", ""); a.Generation != 2 || a.Previous != 2 {
		t.Errorf("applied again %+v", a)
	}
	if p := local[api.Plan](r, "POST", "/v1/plan", ""); p.Changes || len(p.Files)+len(p.Calls)+len(p.Proxies) != 0 {
		t.Errorf("the plan after it %+v", p)
	}

	// A right that goes is "refused" in the plan.
	r.write(strings.Replace(files+bank, `intention "bank" {
  allow { from = ["web"] }
}`, "", 1))
	p = local[api.Plan](r, "POST", "/v1/plan", "")
	if len(p.Calls) != 1 || p.Calls[0].Then != "refused" || p.Calls[0].Now == "refused" {
		t.Errorf("plan of a loss %+v", p.Calls)
	}
	if problems := c.Problems(); len(problems) != 0 {
		t.Error(problems)
	}
}

// Files that are wrong change nothing: not the generation, not the mesh, not a byte at a proxy.
func TestWrongFilesChangeNothing(t *testing.T) {
	r, c := connected(t, xdsim.Mode{})
	r.until("its proxy is synced", func() bool { return local[api.Status](r, "GET", "/v1/status", "").Proxies.Synced == 1 })
	// Synced is said of what it has asked for; it asks for more once it has that.
	heard, since := c.Messages(), time.Now()
	r.until("nothing more is sent", func() bool {
		if now := c.Messages(); now != heard {
			heard, since = now, time.Now()
		}
		return time.Since(since) > 300*time.Millisecond
	})
	snap, messages := r.s.hub.Snapshot(), c.Messages()
	for what, bad := range map[string]struct{ text, line, says string }{
		"no HCL":             {"service {", "mesh.hcl:1", ""},
		"a typo":             {strings.Replace(files, "intention", "intentoin", 1), "mesh.hcl:19", "intention"},
		"not there yet":      {files + "\njwt \"idp\" {\n  issuer = \"https://id.example\"\n  jwks { uri = \"https://id.example/jwks\" }\n  apply { destinations = [\"api\"] }\n}\n", "mesh.hcl:23", "jwt"},
		"deep brackets":      {"x = " + strings.Repeat("[", 200_000), "mesh.hcl:1", ""},
		"other trust domain": {"# moved\n" + strings.Replace(files, "test.example", "other.example", 1), "mesh.hcl:2", "this server's CA signs for \"test.example\""},
		"no trust domain":    {strings.Replace(files, `mesh { trust_domain = "test.example" }`, `mesh { trust_domain = "kerege.local" }`, 1), "mesh.hcl:1", "trust domain"},
	} {
		r.write(bad.text)
		p := local[api.Plan](r, "POST", "/v1/plan", "")
		a := local[api.Applied](r, "POST", "/v1/apply", "")
		for _, found := range [][]api.Diagnostic{p.Diagnostics, a.Diagnostics} {
			if len(found) == 0 || found[0].Severity != "error" || !strings.Contains(found[0].Where, bad.line) || !strings.Contains(found[0].Summary+found[0].Detail, bad.says) || found[0].Text == "" {
				t.Errorf("%s: %.900v, want %s saying %q", what, found, bad.line, bad.says)
			}
		}
		if p.Changes || a.Generation != 1 || a.Previous != 1 || a.Proxies != 0 {
			t.Errorf("%s: %+v %+v", what, p, a)
		}
	}
	if r.s.hub.Snapshot() != snap || c.Messages() != messages {
		t.Errorf("the mesh or the proxy heard of it: %d messages, %d before", c.Messages(), messages)
	}
	st := local[api.Status](r, "GET", "/v1/status", "")
	if st.Generation.Number != 1 || st.TrustDomain != "test.example" || len(st.Differs) != 1 || st.Sources[0].State != "error" || !strings.Contains(st.Sources[0].Error, "generation 1 goes on") {
		t.Errorf("%+v", st)
	}
	if text := r.metrics(); sample(text, "kerege_config_valid") != "0" || sample(text, "kerege_config_generation") != "1" {
		t.Error("the metrics do not say that the files are refused")
	}
	r.write(files)
	if a := local[api.Applied](r, "POST", "/v1/apply", ""); a.Generation != 1 || len(a.Diagnostics) != 0 || sample(r.metrics(), "kerege_config_valid") != "1" {
		t.Errorf("put right: %+v", a)
	}
}

func TestReload(t *testing.T) {
	r := newRig(t).start()
	r.write("service {")
	r.s.Reload(t.Context())
	if log := r.log.String(); !strings.Contains(log, "the mesh files are refused") || !strings.Contains(log, "mesh.hcl:1") {
		t.Errorf("log %s", log)
	}
	r.write(files + bank)
	r.s.Reload(t.Context())
	if r.s.hub.Snapshot().Service("bank") == nil {
		t.Error("the files are not in force")
	}
	noError(t, os.WriteFile(filepath.Join(r.dir, "mesh", "more.hcl"), []byte(`service "extra" {}`), 0o600))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r.s.Reload(ctx) // it ends, whatever it reached
	r.s.Reload(t.Context())
	if gen, _ := r.s.files.Current(); gen.Counter != 3 {
		t.Errorf("generation %d, want 3", gen.Counter)
	}
}

// A proxy that refuses or does not answer is told apart from one that has it,
// and apply does not wait for it for ever.
func TestApplyCountsWhoAcknowledged(t *testing.T) {
	r, _ := connected(t, xdsim.Mode{Nack: func(typ, name, _ string) string {
		if name == "bank:90" && typ == xdsim.Cluster {
			return "I do not like it"
		}
		return ""
	}})
	r.write(files + bank)
	a := local[api.Applied](r, "POST", "/v1/apply", "")
	if a.Generation != 2 || a.Proxies != 1 || a.Acknowledged != 0 || a.Refused != 1 || a.Seconds > acknowledgeWithin.Seconds() {
		t.Errorf("%+v", a)
	}
	all := local[[]api.Proxy](r, "GET", "/v1/proxies", "")
	if len(all) != 1 || all[0].State != "nacked" || all[0].Node != "vm-1" {
		t.Fatalf("%+v", all)
	}
	for _, typ := range all[0].Types {
		if typ.Type == "Cluster" && (typ.State != "nacked" || !strings.HasPrefix(typ.Nack, "bank:90: I do not like it") || !strings.Contains(typ.Cause, "mesh.hcl")) {
			t.Errorf("%+v", typ)
		}
	}
	text := r.metrics()
	if sample(text, `kerege_xds_nacks_total{type="cluster"}`) == "0" || sample(text, `kerege_proxies{state="nacked"}`) != "1" || sample(text, `kerege_proxies{state="synced"}`) != "0" {
		t.Errorf("the metrics do not say it: %s", text)
	}
	// What is right again is waited for, and not taken for the refusal before.
	r.write(files)
	if a := local[api.Applied](r, "POST", "/v1/apply", ""); a.Generation != 3 || a.Acknowledged != 1 || a.Refused != 0 {
		t.Errorf("%+v", a)
	}
}

// One mistake is one finding: the error has the name that is meant, and no
// warning about the same line goes with it. A service of an intention that nobody
// knows is warned of, and stops nothing.
func TestUnknownServicesAreOneFinding(t *testing.T) {
	r := newRig(t).start()
	r.write(files + "\nroute \"api\" {\n  rule \"all\" {\n    to \"apj\" {}\n  }\n}\n")
	p := local[api.Plan](r, "POST", "/v1/plan", "")
	if len(p.Diagnostics) != 1 || p.Diagnostics[0].Code != "KRG1091" || !strings.Contains(p.Diagnostics[0].Detail, `Did you mean "api"?`) || len(p.Warnings) != 0 {
		t.Errorf("%+v and %+v", p.Diagnostics, p.Warnings)
	}
	r.write(files + "\nintention \"later\" {\n  allow { from = [\"wbe\"] }\n}\n")
	p = local[api.Plan](r, "POST", "/v1/plan", "")
	if len(p.Diagnostics) != 0 || len(p.Warnings) != 2 || !strings.Contains(p.Warnings[0].Summary, `"later"`) || !strings.Contains(p.Warnings[1].Detail, `Did you mean "web"?`) {
		t.Errorf("%+v and %+v", p.Diagnostics, p.Warnings)
	}
}
