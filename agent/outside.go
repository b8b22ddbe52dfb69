package agent

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/kerege/kerege/api"
	keregev1 "github.com/kerege/kerege/api/kerege/v1"
)

// CaptureRemove takes the workloads out of the mesh, durably acknowledged, and
// then all rules. Without a server's answer nothing is changed, unless forced:
// callers would go on to send to ports where nobody ends their mTLS.
func (a *Agent) CaptureRemove(ctx context.Context, req api.CaptureRemove) (CaptureRemoved, error) {
	out := CaptureRemoved{Out: []string{}}
	if a.cap == nil {
		return out, errNoCapture
	}
	a.memory.look(func(s *state) { out.Out = append(out.Out, slices.Sorted(maps.Keys(s.In))...) })
	if len(out.Out) > 0 {
		a.mu.Lock()
		up := a.nodeUp
		a.mu.Unlock()
		if !up && !req.Force {
			return out, fmt.Errorf("removing the capture: no server answers, so callers of %s cannot be told, and their calls would fail; nothing is changed. Again when a server answers; without: kerege capture remove -force",
				strings.Join(out.Out, ", "))
		}
		a.setRemoving(true)
		defer a.setRemoving(false)
		var err error
		if out.Acknowledged, err = a.outOfMesh(ctx, out.Out, req); err != nil {
			return out, err
		}
	}
	var err error
	out.Changed, err = a.cap.Remove(ctx)
	return out, err
}

func (a *Agent) setRemoving(on bool) {
	a.mu.Lock()
	a.removing = on
	a.mu.Unlock()
	poke(a.poked)
}

// outOfMesh takes workloads that stay placed here out of the mesh, and back into it
// where no server says that it has heard.
func (a *Agent) outOfMesh(ctx context.Context, keys []string, req api.CaptureRemove) (acknowledged bool, err error) {
	a.memory.change(func(s *state) {
		for _, k := range keys {
			delete(s.In, k)
			s.Out[k] = "its capture was removed by hand; kerege capture apply on " + a.node() + " brings it back"
		}
	})
	a.log.Info("out of the mesh, for the capture is to be removed", "workloads", keys)
	poke(a.changed)
	limit := span(req.Timeout)
	if err := a.until(ctx, limit, func() bool { return a.isOut(keys) }); err == nil {
		return true, a.letEnd(ctx)
	}
	if req.Force {
		return false, nil
	}
	a.memory.change(func(s *state) {
		for _, k := range keys {
			s.In[k] = true
			delete(s.Out, k)
		}
	})
	poke(a.changed)
	return false, fmt.Errorf("removing the capture: no server has acknowledged within %s that %s is out, so callers cannot be told, and their calls would fail; nothing is changed. Again when a server answers; without: kerege capture remove -force",
		limit, strings.Join(keys, ", "))
}

// span is how long to wait for a server's answer.
func span(seconds float64) time.Duration {
	if seconds <= 0 {
		return 30 * time.Second
	}
	return time.Duration(seconds * float64(time.Second))
}

// letEnd waits while callers' proxies hear, which takes moments, and while what
// they sent before ends.
func (a *Agent) letEnd(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(a.cfg.Envoy.DrainDelay):
		return nil
	}
}

// dropUncaptured takes those out whose capture went another way than by kerege
// leave or kerege capture remove.
func (a *Agent) dropUncaptured(list []*workload) {
	if a.cap == nil {
		return
	}
	for _, w := range list {
		if w.explicit != nil || !a.isIn(w.key()) {
			continue
		}
		why := a.cap.Lost(w.key())
		if why == "" {
			continue
		}
		a.memory.change(func(s *state) {
			delete(s.In, w.key())
			s.Out[w.key()] = why + "; kerege capture apply on " + a.node() + " brings it back"
		})
		a.log.Error("out of the mesh: its callers' mTLS would end nowhere", "workload", w.key(), "why", why)
		poke(a.changed)
	}
}

// outside is what a server is told of the workloads that were in.
func outside(s *state, list []*workload) []*keregev1.Outside {
	var out []*keregev1.Outside
	for _, w := range list {
		if why := s.Out[w.key()]; why != "" && !s.In[w.key()] && !s.Left[w.key()] {
			out = append(out, &keregev1.Outside{Service: w.Service, Workload: w.placement.Workload, Reason: why})
		}
	}
	return out
}
