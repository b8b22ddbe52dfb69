package agent

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/kerege/kerege/agent/capture"
	"github.com/kerege/kerege/agent/identity"
	"github.com/kerege/kerege/mesh"
)

// standing is where a workload is on its way into the mesh.
type standing struct {
	state  string // in joining held left
	reason string
}

// verifyEvery bounds how often a capture is probed for those on their way in.
const verifyEvery = 2 * time.Second

func holder(w *workload) identity.Workload {
	return identity.Workload{Service: mesh.ServiceName(w.Service), Workload: w.placement.Workload}
}

// wantIdentities asks for the certificates of what is placed here, and drops
// those of what is not.
func (a *Agent) wantIdentities(list []*workload) {
	want := map[identity.Workload]bool{}
	for _, w := range list {
		if w.dir != "" {
			want[holder(w)] = true
			a.id.Want(holder(w))
		}
	}
	heard := false
	a.memory.look(func(s *state) { heard = !s.Heard.IsZero() })
	if !heard {
		return // nobody has said yet what is placed here
	}
	for _, st := range a.id.Status() {
		if st.Workload == (identity.Workload{}) || want[st.Workload] {
			continue
		}
		if err := a.id.Forget(st.Workload); err != nil {
			a.log.Warn("a certificate that is no longer needed stays on disk", "workload", st.Workload.String(), "error", err)
		}
	}
}

// consider lets workloads into the mesh that are fit for it: certificate, warm
// listeners, verified capture, in this order. It takes out those whose capture is
// surely gone: callers would reach them by mTLS that nobody ends.
func (a *Agent) consider(ctx context.Context, list []*workload) {
	a.captureAllocations(ctx, list)
	a.dropUncaptured(list)
	states := map[string]standing{}
	var ready []*workload
	for _, w := range list {
		st := a.stands(w)
		if st.state == "joining" && st.reason == "" {
			ready = append(ready, w)
			continue
		}
		states[w.key()] = st
	}
	if len(ready) > 0 {
		verdicts := a.verify(ctx, ready)
		for _, w := range ready {
			why := verdicts[w.key()]
			if why != "" {
				states[w.key()] = standing{"joining", why}
				continue
			}
			states[w.key()] = standing{state: "in"}
			a.memory.change(func(s *state) { s.In[w.key()] = true; delete(s.Out, w.key()) })
			a.log.Info("in the mesh", "workload", w.key())
			poke(a.changed)
		}
	}
	a.mu.Lock()
	a.states = states
	a.mu.Unlock()
	a.opt.Status(a.oneLine())
}

// stands says how a workload stands, up to the capture; joining without a reason
// is ready for it.
func (a *Agent) stands(w *workload) standing {
	var in, left bool
	a.memory.look(func(s *state) { in, left = s.In[w.key()], s.Left[w.key()] })
	a.mu.Lock()
	r, failed, removing := a.proxies[w.key()], a.openErr[w.key()], a.removing
	a.mu.Unlock()
	switch {
	case removing && !left:
		return standing{"joining", "its capture is being removed"}
	case left:
		return standing{"left", "it left by hand; kerege join, or kerege capture apply, brings it back"}
	case in && w.Gone:
		return standing{"in", "no registry places it here any more; kerege leave " + w.Service + " takes it out"}
	case in && r != nil:
		_, why := r.relay.Ready()
		return standing{"in", why}
	case in:
		return standing{"in", failed}
	case w.held != "":
		return standing{"held", w.held}
	case failed != "":
		return standing{"held", failed}
	case r == nil:
		return standing{"joining", "its proxy's socket is not open yet"}
	}
	if s := a.id.Get(holder(w)); s == nil || time.Now().After(s.NotAfter) {
		return standing{"joining", "no certificate yet" + a.identityTrouble(holder(w))}
	}
	if ok, why := r.relay.Ready(); !ok {
		return standing{"joining", why}
	}
	return standing{state: "joining"}
}

func (a *Agent) identityTrouble(w identity.Workload) string {
	for _, st := range a.id.Status() {
		if st.Workload == w && st.Error != "" {
			return ": " + st.Error
		}
	}
	return ""
}

// verify says for each workload why its capture is not good yet; "" it is.
func (a *Agent) verify(ctx context.Context, list []*workload) map[string]string {
	out := map[string]string{}
	var captured []*workload
	for _, w := range list {
		if w.explicit == nil && a.cap != nil {
			captured = append(captured, w)
		}
	}
	if len(captured) == 0 {
		return out
	}
	st, err := a.cap.Status(ctx)
	for _, w := range captured {
		switch {
		case err != nil:
			out[w.key()] = "the capture cannot be looked at: " + err.Error()
		case !covers(st, w.key()):
			out[w.key()] = "nothing is captured yet: kerege capture plan, then kerege capture apply"
		case !st.Deadline.IsZero():
			out[w.key()] = "its capture undoes itself unless confirmed: kerege capture confirm"
		}
	}
	captured = slices.DeleteFunc(captured, func(w *workload) bool { return out[w.key()] != "" })
	if len(captured) == 0 {
		return out
	}
	probes, err := a.probe(ctx)
	for _, w := range captured {
		if err != nil {
			out[w.key()] = "its capture cannot be verified: " + err.Error()
			continue
		}
		out[w.key()] = failure(probes, w.key())
	}
	return out
}

func covers(st capture.Status, key string) bool {
	return st.Applied && st.Config != nil && slices.ContainsFunc(st.Config.Workloads, func(w capture.Workload) bool { return w.Name == key })
}

var errSoon = fmt.Errorf("it was tried less than %s ago", verifyEvery)

func (a *Agent) probe(ctx context.Context) ([]capture.Probe, error) {
	a.mu.Lock()
	soon := time.Since(a.verified) < verifyEvery
	if !soon {
		a.verified = time.Now()
	}
	a.mu.Unlock()
	if soon {
		return nil, errSoon
	}
	return a.cap.Verify(ctx)
}

// failure is what the probes hold against a workload; "": nothing.
func failure(probes []capture.Probe, key string) string {
	tried := false
	for _, p := range probes {
		if p.Workload != "" && p.Workload != key {
			continue
		}
		tried = true
		if !p.OK {
			return fmt.Sprintf("its capture does not pass its probe (%s): %s", p.What, p.Why)
		}
	}
	if !tried {
		return "its capture was not probed"
	}
	return ""
}
