package server

import (
	"net/http"

	"github.com/kerege/kerege/api"
	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/plan"
)

// explain is POST /v1/explain: one call through what is applied now.
func explain(snap *mesh.Snapshot, req api.ExplainRequest) (api.Explain, error) {
	for what, name := range map[string]string{"from": req.From, "to": req.To} {
		if err := mesh.CheckName(name); err != nil {
			return api.Explain{}, fail(http.StatusBadRequest, what+": "+err.Error(), "")
		}
	}
	e := plan.Explain(plan.NewView(snap), plan.Call{
		From: mesh.ServiceName(req.From), To: mesh.ServiceName(req.To), Port: req.Port,
		Method: req.Method, Path: req.Path, Headers: req.Headers,
	})
	out := api.Explain{Allowed: e.Allowed, Verdict: e.Verdict, Fix: e.Fix, Steps: []api.ExplainStep{}}
	for _, s := range e.Steps {
		out.Steps = append(out.Steps, api.ExplainStep{Step: s.Name, What: s.What, Where: where(s.Pos), List: s.List})
	}
	return out, nil
}
