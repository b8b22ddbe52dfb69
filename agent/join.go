package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/kerege/kerege/agent/capture"
	"github.com/kerege/kerege/api"
)

// joinByFile shows the token of a file, and removes it once it is spent.
func (a *Agent) joinByFile(ctx context.Context) error {
	token, err := os.ReadFile(a.cfg.Join.TokenFile)
	if err != nil {
		return fmt.Errorf("reading the join token: %w", err)
	}
	if err := a.id.Join(ctx, a.cfg.RetryJoin, strings.TrimSpace(string(token)), a.cfg.Node); err != nil {
		return fmt.Errorf("joining with the token of %s: %w", a.cfg.Join.TokenFile, err)
	}
	if err := os.Remove(a.cfg.Join.TokenFile); err != nil {
		a.log.Warn("a spent join token stays on disk; it opens nothing any more", "file", a.cfg.Join.TokenFile, "error", err)
	}
	return nil
}

// hearWithin is how long a join waits to hear what is placed on the node.
const hearWithin = 5 * time.Second

// Join takes the node into the mesh of a token. Nothing is captured by it. A
// node that is in already says so.
func (a *Agent) Join(ctx context.Context, req api.AgentJoin) (api.AgentJoined, error) {
	if m, ok := a.id.Mesh(); ok {
		if s := a.id.Node(); s != nil && time.Now().Before(s.NotAfter) {
			var evicted bool
			a.memory.change(func(s *state) { evicted = s.Evicted; clear(s.Left) })
			if !evicted {
				poke(a.poked)
				return api.AgentJoined{Node: m.Node, TrustDomain: m.TrustDomain, Already: true, Workloads: a.Status().Workloads}, nil
			}
			if err := a.anew(ctx, a.forget); err != nil { // the old identity opens nothing
				return api.AgentJoined{}, err
			}
		}
	}
	servers := req.Servers
	if len(servers) == 0 {
		servers = a.cfg.RetryJoin
	}
	if err := a.id.Join(ctx, servers, strings.TrimSpace(req.Token), a.cfg.Node); err != nil {
		return api.AgentJoined{}, err
	}
	begin := time.Now().UTC()
	a.memory.change(func(s *state) { clear(s.Left); s.Evicted = false })
	if err := a.anew(ctx, func() error { return nil }); err != nil {
		return api.AgentJoined{}, err
	}
	heard := func() bool {
		ok := false
		a.memory.look(func(s *state) { ok = s.Heard.After(begin) })
		st := a.Status()
		return ok && slices.ContainsFunc(st.Steps, func(s api.AgentStep) bool { return s.Name == "relay" && s.State == "up" })
	}
	_ = a.until(ctx, hearWithin, heard) // the answer says what is known by then
	a.surveyNow()
	m, _ := a.id.Mesh()
	return api.AgentJoined{Node: m.Node, TrustDomain: m.TrustDomain, Workloads: a.Status().Workloads}, nil
}

// surveyNow refreshes the list of workloads for an answer.
func (a *Agent) surveyNow() {
	var placed []placement
	a.memory.look(func(s *state) { placed = s.Placed })
	list := a.survey(placed)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.workloads = list
}

// until waits for ok, looking often; an error is the end of ctx or of the time.
func (a *Agent) until(ctx context.Context, limit time.Duration, ok func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
	return nil
}

// Leave takes one service, or all and the node itself, out of the mesh: first
// out of everybody's endpoints, durably acknowledged, then out of the capture.
func (a *Agent) Leave(ctx context.Context, req api.AgentLeave) (api.AgentLeft, error) {
	out := api.AgentLeft{Left: []string{}}
	all := req.Service == ""
	a.memory.change(func(s *state) {
		for k := range s.In {
			if all || k == key(req.Service, req.Workload) || req.Workload == "" && strings.HasPrefix(k, req.Service+"/") {
				out.Left = append(out.Left, k)
			}
		}
		if !all && len(out.Left) == 0 {
			out.Left = append(out.Left, key(req.Service, req.Workload))
		}
		for _, k := range out.Left {
			delete(s.In, k)
			s.Left[k] = true
		}
	})
	slices.Sort(out.Left)
	a.log.Info("leaving the mesh", "workloads", out.Left, "all", all)
	poke(a.changed)
	poke(a.poked)
	limit := time.Duration(req.Timeout * float64(time.Second))
	if limit <= 0 {
		limit = 30 * time.Second
	}
	err := a.until(ctx, limit, func() bool { return a.isOut(out.Left) })
	out.Acknowledged = err == nil
	if err != nil && !req.Force {
		return out, fmt.Errorf("leaving: no server has acknowledged within %s that %s is out, so callers may still send to it and the capture stays; it is reported as soon as a server answers. Again: kerege leave; without an answer: kerege leave -force",
			limit, strings.Join(out.Left, ", "))
	}
	// Callers' proxies hear within moments; what they sent before ends meanwhile.
	if len(out.Left) > 0 && out.Acknowledged {
		select {
		case <-ctx.Done():
			return out, ctx.Err()
		case <-time.After(a.cfg.Envoy.DrainDelay):
		}
	}
	if out.CaptureRemoved, err = a.uncapture(ctx, out.Left, all); err != nil {
		return out, fmt.Errorf("leaving: out of the mesh, but the capture stays: %w", err)
	}
	if all {
		if err := a.anew(ctx, a.forget); err != nil {
			return out, err
		}
		out.Identity = true
	}
	return out, nil
}

// isOut says whether a server has heard, and written down, that none of the keys
// is in.
func (a *Agent) isOut(keys []string) bool {
	if len(keys) == 0 {
		return true
	}
	a.mu.Lock()
	reported, up := a.reported, a.nodeUp
	a.mu.Unlock()
	if !up || reported == nil {
		return false
	}
	out := true
	a.memory.look(func(s *state) {
		for _, k := range keys {
			out = out && !slices.Contains(reported, k) && !slices.Contains(s.Accepted, k)
		}
	})
	return out
}

// uncapture takes workloads out of the capture; the last one takes it all away.
func (a *Agent) uncapture(ctx context.Context, keys []string, all bool) (removed bool, err error) {
	if a.cap == nil {
		return false, nil
	}
	if all {
		_, err := a.cap.Remove(ctx)
		return err == nil, err
	}
	st, err := a.cap.Status(ctx)
	if err != nil || st.Config == nil {
		return false, err
	}
	c := *st.Config
	c.Workloads = slices.DeleteFunc(slices.Clone(c.Workloads), func(w capture.Workload) bool { return slices.Contains(keys, w.Name) })
	if len(c.Workloads) == 0 {
		_, err := a.cap.Remove(ctx)
		return err == nil, err
	}
	_, err = a.cap.Apply(ctx, c, 0)
	return err == nil, err
}

// forget drops the node's identity and all that it was told; the node is down
// meanwhile, and then waits for a token.
func (a *Agent) forget() error {
	files, err := filepath.Glob(filepath.Join(a.cfg.DataDir, "proxies", "*.state"))
	errs := []error{err}
	for _, f := range files {
		errs = append(errs, os.Remove(f))
	}
	a.memory.change(func(s *state) {
		*s = state{Version: stateVersion, Slots: s.Slots}
		s.fill()
	})
	a.mu.Lock()
	a.workloads, a.states = nil, map[string]standing{}
	a.mu.Unlock()
	errs = append(errs, a.id.Leave())
	return errors.Join(errs...)
}
