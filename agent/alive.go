package agent

import (
	"fmt"
	"sync"
	"time"
)

// stuckAfter is far beyond what any step or look takes, also on a starved host:
// to kill an agent that works is worse than to be late with one that does not.
const stuckAfter = 2 * time.Minute

// pulse knows what is being done, and since when.
type pulse struct {
	mu    sync.Mutex
	since map[string]time.Time
}

// begin notes that something begins, until end is called.
func (p *pulse) begin(what string) (end func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.since == nil {
		p.since = map[string]time.Time{}
	}
	p.since[what] = time.Now()
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.since, what)
	}
}

// stuck is what has been going on for longer than anything takes; nil: nothing.
func (p *pulse) stuck() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	for what, since := range p.since {
		if took := time.Since(since); took > stuckAfter {
			return fmt.Errorf("%s does not end: it began %s ago", what, took.Round(time.Second))
		}
	}
	return nil
}

// Alive is an error when this agent does not move: a step that neither stands nor
// fails, or a look at the workloads that does not end. That a server is away, or a
// step fails and is tried again, is no such thing.
func (a *Agent) Alive() error { return a.pulse.stuck() }
