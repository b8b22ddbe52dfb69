package server

import (
	"slices"
	"sync"

	"github.com/kerege/kerege/api"
	"github.com/kerege/kerege/config"
	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/plan"
	"github.com/kerege/kerege/registry"
)

// planOf is what a mesh would change, or why it cannot be applied. While frozen it
// is held against what the proxies have.
func (s *Server) planOf(m *config.Mesh, diags config.Diagnostics, differs []string) (api.Plan, error) {
	gen, was := s.files.Current()
	out := api.Plan{Generation: int(gen.Counter), Calls: []api.CallChange{}, Proxies: []api.ProxyChange{}, Files: listed(differs),
		Warnings: []api.Diagnostic{}, Diagnostics: []api.Diagnostic{}, Blocks: []api.BlockChange{}, Cut: []api.Cut{}, Apply: len(differs) > 0}
	now := s.hub.Snapshot()
	if m != nil {
		diags = append(diags, besides(config.CatalogWarnings(m, instancesOf(now)), diags)...)
	}
	out.Warnings, out.Diagnostics = diagnostics(diags)
	if len(out.Diagnostics) > 0 {
		return out, nil
	}
	var old *mesh.Snapshot
	old, out.Frozen = s.inForce(false)
	if f := out.Frozen; f != nil && f.Generation > 0 {
		if have, _, err := s.files.Past(uint64(f.Generation)); err == nil && have != nil {
			was, out.Files = have, listed(between(m, have))
		}
	}
	then := registry.Foresee(now, s.opt.Part(m))
	warnings, _ := diagnostics(disagreements(m, then))
	out.Warnings = append(out.Warnings, warnings...)
	calls, _ := plan.Changes(old, then, nil)
	out.Calls, out.Cut = callChanges(calls), cutOf(calls)
	if was != nil {
		out.Blocks = blockChanges(plan.Blocks(s.opt.Part(was), s.opt.Part(m)))
	}
	have, want, err := s.planner.setsFor(then)
	if err != nil {
		return out, err
	}
	out.Proxies = proxyChanges(have, want)
	out.Changes = len(out.Files) > 0 || len(out.Calls) > 0 || len(out.Proxies) > 0
	return out, nil
}

func callChanges(calls []plan.CallChange) []api.CallChange {
	all := []api.CallChange{}
	for _, c := range calls {
		then := c.Then
		if c.Loses() {
			then = "refused"
		}
		all = append(all, api.CallChange{From: string(c.From), To: string(c.To) + portSuffix(c.Port), Now: c.Now, Then: then, Open: c.Open, Where: where(c.Pos)})
	}
	return all
}

func blockChanges(blocks []plan.BlockChange) []api.BlockChange {
	all := []api.BlockChange{}
	for _, b := range blocks {
		c := api.BlockChange{Block: b.Block, How: b.How, Where: where(b.Pos), Edits: []api.BlockEdit{}}
		for _, e := range b.Edits {
			c.Edits = append(c.Edits, api.BlockEdit{What: e.What, Where: where(e.Pos)})
		}
		all = append(all, c)
	}
	return all
}

// cutOf are the callers whose open connections a change cuts.
func cutOf(calls []plan.CallChange) []api.Cut {
	all := []api.Cut{}
	for _, c := range calls {
		if c.Open == "cut" {
			all = append(all, api.Cut{From: string(c.From), To: string(c.To) + portSuffix(c.Port)})
		}
	}
	return all
}

// comparedAtMost bounds the pairs of services that an apply is judged by for its
// answer: in a big mesh a change of what everybody may do is for kerege plan.
const comparedAtMost = 200_000

// cutBetween are the callers whose open connections going from one snapshot to
// another has cut; nil where nothing is known of the first.
func cutBetween(was, is *mesh.Snapshot) []api.Cut {
	if was == nil || plan.Pairs(was, is) > comparedAtMost {
		return nil
	}
	calls, _ := plan.Changes(was, is, nil)
	return cutOf(calls)
}

// said keeps what reading the generation in force warned of.
type said struct {
	mu    sync.Mutex
	of    uint64
	diags config.Diagnostics
}

// standing are the warnings of the generation in force that still hold; what its
// registries disagree on stands among the conflicts.
func (s *Server) standing(snap *mesh.Snapshot) []api.Diagnostic {
	gen, m := s.files.Current()
	if m == nil {
		return []api.Diagnostic{}
	}
	s.said.mu.Lock()
	defer s.said.mu.Unlock()
	if s.said.of != gen.Counter {
		_, diags, err := s.files.Past(gen.Counter)
		if err != nil {
			diags = nil
		}
		s.said.of, s.said.diags = gen.Counter, diags
	}
	warnings, _ := diagnostics(slices.Concat(s.said.diags, besides(config.CatalogWarnings(m, instancesOf(snap)), s.said.diags)))
	return warnings
}
