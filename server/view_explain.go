package server

import (
	"net/http"
	"reflect"

	"github.com/kerege/kerege/api"
	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/plan"
)

// explain is POST /v1/explain: one call through what the proxies were told.
func (s *Server) explain(req api.ExplainRequest) (api.Explain, error) {
	snap, frozen := s.inForce(req.Applied)
	out, err := explain(snap, req)
	if err != nil || frozen == nil {
		return out, err
	}
	out.Frozen = frozen
	if !req.Applied && !frozen.Unknown {
		then, err := explain(s.hub.Snapshot(), req)
		if err != nil {
			return out, err
		}
		if !reflect.DeepEqual(then.Steps, out.Steps) || then.Verdict != out.Verdict {
			out.Thawed = then.Verdict
		}
	}
	return out, nil
}

// intentions is GET /v1/intentions, of what the proxies were told; with ?applied=true
// of what is applied.
func (s *Server) intentions(r *http.Request) (any, error) {
	snap, _ := s.inForce(r.URL.Query().Get("applied") == "true")
	return intentionsOf(snap), nil
}

// explain follows one call through a snapshot.
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
