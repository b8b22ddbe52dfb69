package capture

import (
	"context"
	"errors"
	"time"
)

// Run looks after the capture until ctx ends: it mends what other programs
// flushed, at once where the kernel tells of it (nftables), tries again what is pending, and undoes what nobody confirmed. It
// leaves everything as it is when it ends.
func (m *Manager) Run(ctx context.Context) error {
	m.attend()
	changes, stop := m.watch()
	defer stop()
	for {
		wait := m.tick(ctx)
		changes.last = time.Now()
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-m.poke:
			timer.Stop()
		case <-changes.heard:
			timer.Stop()
			changes.due(ctx, m.poke, wait)
		case <-timer.C:
		}
	}
}

// attend records this process as the agent.
func (m *Manager) attend() {
	me := thisProcess()
	err := m.locked(func(s *state) error {
		s.Agent = me
		return m.save(*s)
	})
	if err != nil {
		m.o.Log.Error("recording who looks after the capture", "error", err)
	}
}

// tick is one look, and tells how long until the next.
func (m *Manager) tick(ctx context.Context) (wait time.Duration) {
	wait = m.o.Every
	err := m.locked(func(s *state) error {
		if s.Config == nil {
			return nil
		}
		if !s.Deadline.IsZero() && !time.Now().Before(s.Deadline) {
			return m.undo(ctx, s)
		}
		wasSettled := m.settled
		changed, err := m.bring(ctx, s, false)
		m.settled = err == nil
		m.noteMissing(ctx, s, err)
		if changed && wasSettled && err == nil {
			m.repairs.Add(1)
			m.o.Log.Warn("another program changed the rules; they are back", "repairs", m.repairs.Load())
		}
		if !s.Deadline.IsZero() {
			wait = min(wait, max(time.Until(s.Deadline), 10*time.Millisecond))
		}
		return errors.Join(err, m.save(*s))
	})
	if err != nil && ctx.Err() == nil {
		m.o.Log.Error("looking after the capture", "error", err)
		wait = min(wait, time.Second)
	}
	return wait
}

// undo goes back to what was confirmed before; to nothing if nothing was.
func (m *Manager) undo(ctx context.Context, s *state) error {
	m.o.Log.Warn("nobody confirmed the capture: it is undone")
	if s.Previous == nil {
		_, err := m.removeAll(ctx, s)
		return err
	}
	s.Config, s.Previous, s.Deadline = s.Previous, nil, time.Time{}
	_, err := m.bring(ctx, s, false)
	return errors.Join(err, m.save(*s))
}
