package agent

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/kerege/kerege/api"
)

// step is one part of bringing a node up. start does not block for long; what it
// started ends when stop returns. Both may be called again after each other.
type step struct {
	name  string
	start func(context.Context) (stop func(), err error)
}

// retryStep is how long a step that failed is left before it is tried again.
const retryStep = 2 * time.Second

// ladder starts steps in order and stops them in reverse.
type ladder struct {
	log   hclog.Logger
	steps []step
	pulse *pulse

	mu   sync.Mutex
	rows []api.AgentStep
}

func newLadder(log hclog.Logger, steps []step) *ladder {
	l := &ladder{log: log, steps: steps, pulse: &pulse{}}
	for _, s := range steps {
		l.rows = append(l.rows, api.AgentStep{Name: s.name, State: "waiting"})
	}
	return l
}

// run climbs, stays until ctx is done, and comes down. up is called when all
// steps stand.
func (l *ladder) run(ctx context.Context, up func()) {
	var stops []func()
	for i, s := range l.steps {
		stop := l.climb(ctx, i, s)
		if stop == nil {
			break // ctx is done
		}
		stops = append(stops, stop)
	}
	if len(stops) == len(l.steps) {
		up()
		<-ctx.Done()
	}
	for i := len(stops) - 1; i >= 0; i-- {
		begin := time.Now()
		end := l.pulse.begin("taking down the step " + l.steps[i].name)
		stops[i]()
		end()
		l.set(i, "stopped", "")
		l.log.Info("step down", "step", l.steps[i].name, "took", time.Since(begin).Round(time.Millisecond))
	}
}

// climb starts one step, again and again until it stands or ctx is done.
func (l *ladder) climb(ctx context.Context, i int, s step) (stop func()) {
	said := ""
	for ctx.Err() == nil {
		begin := time.Now()
		end := l.pulse.begin("bringing up the step " + s.name)
		stop, err := s.start(ctx)
		end()
		if err == nil {
			l.set(i, "up", "")
			l.log.Info("step up", "step", s.name, "took", time.Since(begin).Round(time.Millisecond))
			return stop
		}
		l.set(i, "failed", err.Error())
		if text := err.Error(); text != said {
			said = text
			l.log.Error("a step failed; those before it go on, and it is tried again", "step", s.name, "error", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(retryStep):
		}
	}
	return nil
}

func (l *ladder) set(i int, state, why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rows[i].State, l.rows[i].Error = state, why
}

// status is a copy.
func (l *ladder) status() []api.AgentStep {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]api.AgentStep{}, l.rows...)
}

// needs is an error that names the step that does not stand, and the one before
// it that it waits for.
func (l *ladder) needs(name string) error {
	var first *api.AgentStep // that does not stand
	for _, r := range l.status() {
		if first == nil && r.State != "up" {
			first = &r
		}
		if r.Name != name {
			continue
		}
		switch {
		case r.State == "up":
			return nil
		case r.Error != "":
			return fmt.Errorf("the agent's step %q does not stand: %s", name, r.Error)
		case first.Error != "":
			return fmt.Errorf("the agent's step %q waits for its step %q: %s", name, first.Name, first.Error)
		}
		return fmt.Errorf("the agent's step %q is %s; try again in a moment", name, r.State)
	}
	return nil
}
