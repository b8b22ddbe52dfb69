package server

import (
	"context"
	"sync"
	"time"

	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/xds/delta"
)

// convergence measures how long proxies take to accept what a snapshot changes
// for them. It looks at those that have not yet, ever more seldom: a measurement
// is true to an eighth of itself, or 2 ms.
type convergence struct {
	state   func(id string) delta.State // of a proxy; "": gone
	observe func(time.Duration)
	now     func() time.Time

	mu    sync.Mutex
	since map[string]time.Time // by proxy: the oldest snapshot that it has not accepted
	young time.Time            // when the last snapshot came
	poke  chan struct{}        // capacity 1
}

const (
	lookSoonest = 2 * time.Millisecond
	lookLatest  = 250 * time.Millisecond
)

func newConvergence(state func(string) delta.State, observe func(time.Duration), now func() time.Time) *convergence {
	return &convergence{state: state, observe: observe, now: now, since: map[string]time.Time{}, poke: make(chan struct{}, 1)}
}

// pushed notes that a snapshot taken at a time gave proxies new wishes. Where an
// older one is not accepted yet, that one's time counts.
func (c *convergence) pushed(at time.Time, ids []mesh.ProxyID) {
	if len(ids) == 0 {
		return
	}
	c.mu.Lock()
	for _, id := range ids {
		if _, waits := c.since[id.String()]; !waits {
			c.since[id.String()] = at
		}
	}
	c.young = at
	c.mu.Unlock()
	select {
	case c.poke <- struct{}{}:
	default:
	}
}

// run looks until ctx ends.
func (c *convergence) run(ctx context.Context) error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		var again <-chan time.Time
		if wait := c.look(); wait > 0 {
			timer.Reset(wait)
			again = timer.C
		}
		select {
		case <-ctx.Done():
			return nil
		case <-again:
		case <-c.poke:
		}
	}
}

// look strikes out whoever has accepted and returns when to look again; 0: not
// before there is something new.
func (c *convergence) look() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	for id, since := range c.since {
		switch c.state(id) {
		case delta.Stale:
			continue
		case delta.Synced:
			c.observe(now.Sub(since))
		}
		delete(c.since, id)
	}
	if len(c.since) == 0 {
		return 0
	}
	return min(max(now.Sub(c.young)/8, lookSoonest), lookLatest)
}
