package server

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/kerege/kerege/api"
	"github.com/kerege/kerege/config"
	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/registry/file"
	"github.com/kerege/kerege/xds/delta"
)

// plan is POST /v1/plan: what the files as they are on disk would change.
func (s *Server) plan() (api.Plan, error) {
	m, diags := config.Load(s.cfg.MeshPaths...)
	if m != nil {
		diags = append(diags, m.Unsupported...)
		diags = append(diags, s.check(m)...)
	}
	return s.planOf(m, diags, s.files.Differs())
}

// besides leaves out the warnings about what an error speaks of already.
func besides(warnings, errs config.Diagnostics) config.Diagnostics {
	return slices.DeleteFunc(warnings, func(w config.Diagnostic) bool {
		return slices.ContainsFunc(errs, func(e config.Diagnostic) bool {
			return e.Severity == config.Error && e.File == w.File && e.Line == w.Line
		})
	})
}

func portSuffix(port string) string {
	if port == "" {
		return ""
	}
	return ":" + port
}

// instancesOf are those that registries know; the files' own are read from the files.
func instancesOf(snap *mesh.Snapshot) []mesh.Instance {
	var all []mesh.Instance
	for _, name := range snap.Services() {
		for _, in := range snap.Instances(name) {
			if in.Source != "file" {
				all = append(all, *in)
			}
		}
	}
	return all
}

// diagnostics splits findings into warnings and what stops an apply.
func diagnostics(all config.Diagnostics) (warnings, errs []api.Diagnostic) {
	warnings, errs = []api.Diagnostic{}, []api.Diagnostic{}
	for _, d := range all {
		var text bytes.Buffer
		if err := (config.Diagnostics{d}).WriteText(&text, false); err != nil {
			fmt.Fprintln(&text, d.Message)
		}
		v := api.Diagnostic{Severity: string(d.Severity), Code: d.Code, Where: d.Position.String(), Summary: d.Message, Detail: d.Fix, Text: text.String()}
		if d.Severity == config.Error {
			errs = append(errs, v)
		} else {
			warnings = append(warnings, v)
		}
	}
	return warnings, errs
}

// proxyChanges compares what proxies have with what they would be sent, byte for byte.
func proxyChanges(have, want map[mesh.ProxyID]*delta.Set) []api.ProxyChange {
	all := []api.ProxyChange{}
	for id, now := range have {
		was, is := flat(now), flat(want[id])
		c := api.ProxyChange{Proxy: id.String(), Changed: []string{}, Removed: []string{}, Drains: []string{}}
		for key, version := range is {
			if was[key] == version {
				continue
			}
			c.Changed = append(c.Changed, key)
			if _, had := was[key]; had && strings.HasPrefix(key, "Listener ") {
				c.Drains = append(c.Drains, strings.TrimPrefix(key, "Listener "))
			}
		}
		for key := range was {
			if _, stays := is[key]; !stays {
				c.Removed = append(c.Removed, key)
				if name, is := strings.CutPrefix(key, "Listener "); is {
					c.Drains = append(c.Drains, name)
				}
			}
		}
		if len(c.Changed)+len(c.Removed) == 0 {
			continue
		}
		slices.Sort(c.Changed)
		slices.Sort(c.Removed)
		slices.Sort(c.Drains)
		all = append(all, c)
	}
	slices.SortFunc(all, func(a, b api.ProxyChange) int { return strings.Compare(a.Proxy, b.Proxy) })
	return all
}

// flat is a set as "<type> <name>" to version.
func flat(set *delta.Set) map[string]string {
	out := map[string]string{}
	if set == nil {
		return out
	}
	for _, g := range set.Groups {
		for _, r := range g.Resources {
			out[shortType(r.Type)+" "+r.Name] = r.Version
		}
	}
	return out
}

// acknowledgeWithin is how long apply waits for proxies before it answers with
// how many have acknowledged.
const acknowledgeWithin = 3 * time.Second

// apply is POST /v1/apply: all files or none, then a while for the proxies.
func (s *Server) apply(ctx context.Context) (api.Applied, error) {
	return s.change(ctx, "applied", s.files.Apply)
}

// change makes another generation the one in force, and waits for the proxies.
func (s *Server) change(ctx context.Context, event string, take func(context.Context) (file.Step, config.Diagnostics, error)) (api.Applied, error) {
	began, was := s.now(), s.hub.Snapshot()
	step, diags, err := take(ctx)
	if err != nil {
		return api.Applied{}, err
	}
	out := api.Applied{Previous: int(step.Before.Counter), Generation: int(step.Now.Counter)}
	out.Warnings, out.Diagnostics = diagnostics(diags)
	if len(out.Diagnostics) > 0 {
		return out, nil
	}
	out.Of = int(step.Of)
	if err := s.hub.Settle(ctx); err != nil {
		return out, fmt.Errorf("waiting for the registry to take generation in: %w", err)
	}
	_, m := s.files.Current()
	snap := s.hub.Snapshot()
	more, _ := diagnostics(append(besides(config.CatalogWarnings(m, instancesOf(snap)), diags), disagreements(m, snap)...))
	out.Warnings = append(out.Warnings, more...)
	if out.Frozen = s.frost.is() != nil; !out.Frozen {
		s.acknowledged(ctx, &out)
		out.Cut = cutBetween(was, snap)
	}
	out.Seconds = s.now().Sub(began).Seconds()
	fields := []any{"generation", out.Generation, "previous", out.Previous, "proxies", out.Proxies, "acknowledged", out.Acknowledged, "refused", out.Refused}
	if out.Of > 0 {
		fields = append(fields, "of", out.Of)
	}
	s.log.Named("audit").Info(event, fields...)
	return out, nil
}

// refusedFor is how long nothing may be on its way to a proxy that has refused
// something, until that is taken for its answer: a refusal of an earlier update
// still stands in its row while the next is being sent.
const refusedFor = 250 * time.Millisecond

// acknowledged waits until every connected proxy has answered for what it should have.
func (s *Server) acknowledged(ctx context.Context, out *api.Applied) {
	s.planner.settle(ctx, s.hub.Snapshot())
	deadline := s.now().Add(acknowledgeWithin)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	var quiet time.Time // since when nothing is on its way
	for {
		counts, now := s.ads.Counts(), s.now()
		out.Proxies, out.Acknowledged, out.Refused = counts[delta.Synced]+counts[delta.Stale]+counts[delta.Nacked], counts[delta.Synced], counts[delta.Nacked]
		switch {
		case counts[delta.Stale] > 0:
			quiet = time.Time{}
		case quiet.IsZero():
			quiet = now
		}
		if out.Acknowledged == out.Proxies || !quiet.IsZero() && now.Sub(quiet) >= refusedFor || now.After(deadline) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// Reload is what SIGHUP asks for: apply, with the findings in the log.
func (s *Server) Reload(ctx context.Context) {
	a, err := s.apply(ctx)
	switch {
	case err != nil:
		s.log.Error("reload failed", "error", err)
	case len(a.Diagnostics) > 0:
		for _, d := range a.Diagnostics {
			s.log.Error("the mesh files are refused; the generation before goes on", "where", d.Where, "what", d.Summary, "fix", d.Detail)
		}
	}
}
