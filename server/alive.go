package server

import (
	"context"
	"fmt"
	"time"

	"github.com/kerege/kerege/mesh"
)

// Alive is an error when what the sources say does not become what proxies are
// told: the registry's writer or the planner does not move before ctx ends. That
// a registry is away is no such thing.
func (s *Server) Alive(ctx context.Context) error {
	if err := s.hub.Settle(ctx); err != nil {
		return fmt.Errorf("the registry does not take in what it hears: %w", err)
	}
	if s.frost.is() != nil {
		return nil // the planner stands still by an operator's word
	}
	select {
	case <-s.hub.Ready():
		return s.planner.follows(ctx, s.hub.Snapshot)
	default:
		return nil
	}
}

// follows waits until the planner has the current snapshot, or any newer than the
// one it has now: under steady change it is never quite there.
func (p *planner) follows(ctx context.Context, now func() *mesh.Snapshot) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	var first *mesh.Snapshot
	for {
		if p.mu.TryLock() { // one who holds it for ever must not hold this up
			has := p.compiler.Snapshot()
			p.mu.Unlock()
			if first == nil {
				first = has
			}
			if has == now() || has != first {
				return nil
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the planner does not take in the mesh's last change: %w", ctx.Err())
		case <-tick.C:
		}
	}
}
