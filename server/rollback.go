package server

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"

	"github.com/kerege/kerege/api"
	"github.com/kerege/kerege/config"
	"github.com/kerege/kerege/registry/file"
)

// generations is GET /v1/generations.
func (s *Server) generations() api.Generations {
	gen, _ := s.files.Current()
	out := api.Generations{Current: int(gen.Counter), Before: int(s.files.Before()), Kept: []api.Past{}}
	for _, p := range s.files.History() {
		out.Kept = append(out.Kept, api.Past{Number: int(p.Counter), Hash: p.Hash, Applied: p.Since, Files: p.Files, Of: int(p.Of)})
	}
	return out
}

// planAsked is POST /v1/plan: of the files on disk, or of a kept generation.
func (s *Server) planAsked(r *http.Request) (any, error) {
	var req api.PlanRequest
	if err := readAny(r, &req); err != nil {
		return nil, err
	}
	if req.Generation == 0 {
		return s.plan()
	}
	m, diags, err := s.files.Past(uint64(max(req.Generation, 0)))
	if err != nil {
		return nil, noGeneration(err)
	}
	_, now := s.files.Current()
	var differs []string
	if m != nil {
		differs = between(m, now)
		diags = append(diags, s.checkAgain(m)...)
	}
	return s.planOf(m, diags, differs)
}

// rollback is POST /v1/rollback: it needs no registry, and no file but its own.
func (s *Server) rollback(r *http.Request) (any, error) {
	var req api.RollbackRequest
	if err := readAny(r, &req); err != nil {
		return nil, err
	}
	n := uint64(max(req.Generation, 0))
	if n == 0 {
		n = s.files.Before()
	}
	if n == 0 {
		return nil, noGeneration(fmt.Errorf("%w from before the one in force", file.ErrNoGeneration))
	}
	out, err := s.change(r.Context(), "rolled back", func(ctx context.Context) (file.Step, config.Diagnostics, error) {
		return s.files.Rollback(ctx, n, s.checkAgain)
	})
	if err != nil {
		return nil, noGeneration(err)
	}
	return out, nil
}

// checkAgain is check of files that were in force before. That a target of theirs
// is not registered now keeps nobody from going back to them.
func (s *Server) checkAgain(m *config.Mesh) config.Diagnostics {
	diags := s.checkTargets(m)
	for i := range diags {
		diags[i].Severity = config.Warning
	}
	return append(diags, s.checkTrustDomain(m)...)
}

func noGeneration(err error) error {
	if errors.Is(err, file.ErrNoGeneration) {
		return fail(http.StatusNotFound, err.Error(), "kerege history lists those that are kept.")
	}
	return err
}

// between names the files that two generations do not have alike, sorted.
func between(a, b *config.Mesh) []string {
	names := map[string]bool{}
	for name, text := range a.Sources {
		names[name] = b == nil || !bytes.Equal(text, b.Sources[name])
	}
	if b != nil {
		for name := range b.Sources {
			if _, both := a.Sources[name]; !both {
				names[name] = true
			}
		}
	}
	maps.DeleteFunc(names, func(_ string, differs bool) bool { return !differs })
	return slices.Sorted(maps.Keys(names))
}
