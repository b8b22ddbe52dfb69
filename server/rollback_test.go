package server

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"

	"github.com/kerege/kerege/api"
	"github.com/kerege/kerege/config"
	"github.com/kerege/kerege/e2e/xdsim"
	"github.com/kerege/kerege/registry/file"
)

func TestRollback(t *testing.T) {
	r, c := connected(t, xdsim.Mode{})
	r.write(files + bank)
	if a := local[api.Applied](r, "POST", "/v1/apply", ""); a.Generation != 2 || c.Held(xdsim.Cluster)["bank:90"] == "" {
		t.Fatalf("%+v", a)
	}
	if g := local[api.Generations](r, "GET", "/v1/generations", ""); g.Current != 2 || g.Before != 1 || len(g.Kept) != 2 || g.Kept[1].Number != 1 || g.Kept[1].Files != 1 {
		t.Errorf("kept %+v", g)
	}
	p := local[api.Plan](r, "POST", "/v1/plan", `{"generation": 1}`)
	if !p.Changes || len(p.Files) != 1 || len(p.Proxies) != 1 || !strings.Contains(strings.Join(p.Proxies[0].Removed, " "), "Cluster bank:90") || len(p.Calls) != 1 {
		t.Errorf("plan %+v", p)
	}
	if local[api.Status](r, "GET", "/v1/status", "").Generation.Number != 2 {
		t.Error("a plan has changed something")
	}

	a := local[api.Applied](r, "POST", "/v1/rollback", "")
	if a.Generation != 3 || a.Of != 1 || a.Previous != 2 || a.Acknowledged != 1 || c.Held(xdsim.Cluster)["bank:90"] != "" {
		t.Errorf("%+v", a)
	}
	if !strings.Contains(r.log.String(), "rolled back: generation=3 previous=2") {
		t.Error("the audit log does not say so")
	}
	for _, when := range []string{"at once", "after a restart"} {
		st := local[api.Status](r, "GET", "/v1/status", "")
		if st.Generation.Number != 3 || st.Generation.Of != 1 || len(st.Differs) != 1 || st.Sources[0].State != "ok" || st.Services != 2 {
			t.Errorf("%s: %+v", when, st)
		}
		r.again()
	}
	// The page of plan is that of the files that wait, and apply takes them.
	if p := local[api.Plan](r, "POST", "/v1/plan", `{}`); !p.Changes || len(p.Files) != 1 {
		t.Errorf("plan %+v", p)
	}
	if a := local[api.Applied](r, "POST", "/v1/apply", ""); a.Generation != 4 || a.Of != 0 {
		t.Errorf("%+v", a)
	}
	if st := local[api.Status](r, "GET", "/v1/status", ""); st.Generation.Of != 0 || len(st.Differs) != 0 || st.Services != 3 {
		t.Errorf("%+v", st)
	}
	for path, body := range map[string]string{"/v1/rollback": `{"generation": 77}`, "/v1/plan": `{"generation": 77}`} {
		if status, text := r.ask("", "POST", path, body); status != http.StatusNotFound || !strings.Contains(text, "no such generation is kept: generation 77") {
			t.Errorf("%s of what is not kept: %d %s", path, status, text)
		}
	}
}

// What was in force is gone back to, although a target of it is not registered any more.
func TestRollbackNeedsNoRegistry(t *testing.T) {
	r := newRig(t).start()
	route := "\nroute \"api\" {\n  rule \"all\" {\n    to \"gone\" {}\n  }\n}\n"
	r.write(files + route + "\nservice \"gone\" {}\n")
	if a := local[api.Applied](r, "POST", "/v1/apply", ""); a.Generation != 2 {
		t.Fatalf("%+v", a)
	}
	r.write("mesh { trust_domain = \"test.example\" }\n")
	if a := local[api.Applied](r, "POST", "/v1/apply", ""); a.Generation != 3 {
		t.Fatalf("%+v", a)
	}
	if a := local[api.Applied](r, "POST", "/v1/rollback", `{"generation": 2}`); a.Generation != 4 || a.Of != 2 || len(a.Diagnostics) != 0 {
		t.Errorf("%+v", a)
	}
	if a := local[api.Applied](r, "POST", "/v1/rollback", ""); a.Generation != 5 || a.Of != 1 {
		t.Errorf("a second one does not go further back: %+v", a)
	}
}

// What comes after an apply, before it has answered, is not in its answer.
func TestAnApplyTellsItsOwnGeneration(t *testing.T) {
	r := newRig(t).start()
	r.write(files + bank)
	a, err := r.s.change(t.Context(), "applied", func(ctx context.Context) (file.Step, config.Diagnostics, error) {
		step, diags, err := r.s.files.Apply(ctx)
		_, _, other := r.s.files.Rollback(ctx, 1, r.s.checkAgain)
		return step, diags, errors.Join(err, other)
	})
	noError(t, err)
	if a.Generation != 2 || a.Previous != 1 || a.Of != 0 {
		t.Errorf("%+v", a)
	}
	if !strings.Contains(r.log.String(), "applied: generation=2 previous=1") {
		t.Error("the audit log says another")
	}
}
