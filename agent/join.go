package agent

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kerege/kerege/agent/capture"
	"github.com/kerege/kerege/api"
	keregev1 "github.com/kerege/kerege/api/kerege/v1"
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
			admitted, err := a.stillIn(ctx, m.Node, req.Token)
			if err != nil {
				return api.AgentJoined{}, err
			}
			if admitted {
				a.memory.change(func(s *state) { clear(s.Left) })
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

// askWithin is how long a server may take to say whether this node is in.
const askWithin = 3 * time.Second

// stillIn says whether a node that has an identity is one of the mesh: a server
// says so, or none answers and none has said otherwise. A token of another node is
// an error.
func (a *Agent) stillIn(ctx context.Context, node, token string) (bool, error) {
	var evicted bool
	a.memory.look(func(s *state) { evicted = s.Evicted })
	if evicted || a.standing("identity") != nil {
		return !evicted, nil
	}
	ctx, cancel := context.WithTimeout(ctx, askWithin)
	defer cancel()
	known, err := keregev1.NewNodeClient(a.conn()).Known(ctx, &keregev1.KnownRequest{Token: strings.TrimSpace(token)})
	switch {
	case status.Code(err) == codes.PermissionDenied:
		return false, nil
	case err != nil:
		a.log.Warn("no server says whether this node is still in", "error", err)
		return true, nil
	case known.GetTokenNode() != "" && known.GetTokenNode() != node:
		return true, &api.Error{Status: http.StatusConflict, Title: fmt.Sprintf("the token is for the node %s, and this host is in already as %s", known.GetTokenNode(), node),
			Detail: "the token is not spent: use it on that host. To give this one another name: kerege leave, set node in agent.hcl, then kerege join"}
	}
	return true, nil
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
	keys, captured, err := a.leavers(ctx, req)
	if err != nil {
		return out, err
	}
	if out.Nothing = a.nothingToLeave(req, keys, captured); out.Nothing != "" {
		return out, nil
	}
	a.setLeaving(all)
	a.memory.change(func(s *state) {
		for _, k := range keys {
			if s.In[k] || slices.Contains(s.Accepted, k) { // or a try before had no answer
				out.Left = append(out.Left, k)
			}
			delete(s.In, k)
			delete(s.Out, k)
			s.Left[k] = true
		}
	})
	slices.Sort(out.Left)
	a.log.Info("leaving the mesh", "workloads", keys, "all", all)
	poke(a.changed)
	poke(a.poked)
	limit := span(req.Timeout)
	err = a.until(ctx, limit, func() bool { return a.isOut(out.Left) })
	out.Acknowledged = err == nil && len(out.Left) > 0
	if err != nil && !req.Force {
		a.setLeaving(false)
		return out, fmt.Errorf("leaving: no server has acknowledged within %s that %s is out, so callers may still send to it and the capture stays; it is reported as soon as a server answers. Again: kerege leave; without an answer: kerege leave -force",
			limit, strings.Join(out.Left, ", "))
	}
	if out.Acknowledged {
		if err := a.letEnd(ctx); err != nil {
			a.setLeaving(false)
			return out, err
		}
	}
	if captured {
		if out.CaptureRemoved, err = a.uncapture(ctx, keys, all); err != nil {
			a.setLeaving(false)
			return out, fmt.Errorf("leaving: out of the mesh, but the capture stays: %w", err)
		}
	}
	if all {
		a.sayFarewell(ctx)
		if err := a.anew(ctx, a.forget); err != nil {
			return out, err
		}
		out.Identity = true
	}
	return out, nil
}

// leavers are the workloads that a request is about, and whether any of them, or
// anything where it is about all, is captured. A name of which nothing is here is
// an error.
func (a *Agent) leavers(ctx context.Context, req api.AgentLeave) (keys []string, captured bool, err error) {
	var st capture.Status
	if a.cap != nil {
		if st, err = a.cap.Status(ctx); err != nil {
			return nil, false, fmt.Errorf("leaving: looking at the capture: %w", err)
		}
	}
	here := map[string]bool{}
	a.memory.look(func(s *state) {
		for _, p := range s.Placed {
			here[p.key()] = true
		}
		for k := range s.In {
			here[k] = true
		}
	})
	all := slices.Sorted(maps.Keys(here))
	if req.Service == "" {
		return all, st.Applied, nil
	}
	for _, k := range all {
		if k == key(req.Service, req.Workload) || req.Workload == "" && strings.HasPrefix(k, req.Service+"/") {
			keys = append(keys, k)
			captured = captured || covers(st, k)
		}
	}
	if len(keys) == 0 {
		return nil, false, a.noWorkload(key(req.Service, req.Workload), all)
	}
	return keys, captured, nil
}

// nothingToLeave says why a request changes nothing; "": it changes something.
func (a *Agent) nothingToLeave(req api.AgentLeave, keys []string, captured bool) string {
	_, joined := a.id.Mesh()
	if captured || req.Service == "" && joined {
		return ""
	}
	if req.Service == "" {
		return "this host is not in a mesh, and nothing of it is captured"
	}
	in, left := false, true
	a.memory.look(func(s *state) {
		for _, k := range keys {
			in = in || s.In[k] || slices.Contains(s.Accepted, k)
			left = left && s.Left[k]
		}
	})
	if !in && left {
		return strings.Join(keys, ", ") + " has left already; kerege join, or kerege capture apply, brings it back"
	}
	return ""
}

// noWorkload is the answer to a name of which nothing is on this host.
func (a *Agent) noWorkload(name string, here []string) error {
	detail := "nothing is placed on this host"
	if len(here) > 0 {
		detail = "here are: " + strings.Join(here, ", ")
	}
	return &api.Error{Status: http.StatusNotFound, Title: fmt.Sprintf("no registry places %s on %s", name, a.node()), Detail: detail}
}

func (a *Agent) setLeaving(on bool) {
	a.mu.Lock()
	a.leaving = on
	a.mu.Unlock()
}

// sayFarewell waits a moment for a server to be told that this node gives its
// identity up. It is for the operators' lists, so nothing depends on it.
func (a *Agent) sayFarewell(ctx context.Context) {
	poke(a.changed)
	told := func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return a.farewell || !a.nodeUp
	}
	if a.until(ctx, 2*time.Second, told) == nil {
		_ = a.until(ctx, 100*time.Millisecond, func() bool { return false }) // it is on its way
	}
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
	a.workloads, a.states, a.leaving, a.farewell = nil, map[string]standing{}, false, false
	a.mu.Unlock()
	errs = append(errs, a.id.Leave())
	return errors.Join(errs...)
}
