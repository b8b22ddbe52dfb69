package envoy

import (
	"context"
	"time"
)

// leave lets calls in flight end, of the Envoy that serves and of one that is on
// its way out, and stops both.
func (l *Launcher) leave(now *process, old *leaver) {
	ctx, cancel := context.WithTimeout(context.Background(), l.o.Drain)
	defer cancel()
	l.drain(ctx, now)
	if old != nil {
		select { // an Envoy that is told to stop takes it along
		case <-old.idle:
		case <-ctx.Done():
		}
	}
	l.complain(now.stop())
}

// drain lets calls in flight end. Envoy goes on accepting, for callers who have not
// heard yet, and asks each client at its answer to connect elsewhere. It returns when none is left, the time is up,
// or Envoy has ended by itself.
func (l *Launcher) drain(ctx context.Context, p *process) {
	if l.o.Leaving != nil {
		l.o.Leaving(ctx)
	}
	if err := l.admin.Drain(ctx); err != nil {
		l.o.Log.Warn("Envoy could not be asked to drain", "error", err)
		return
	}
	for quiet := 0; ; {
		n, err := l.admin.InFlight(ctx)
		if err == nil && n == 0 {
			if quiet++; quiet == 2 { // once more: the last answer may still be on its way out
				return
			}
		} else {
			quiet = 0
		}
		select {
		case <-p.done:
			return
		case <-ctx.Done():
			l.o.Log.Warn("Envoy is stopped with calls in flight", "calls", n, "after", l.o.Drain)
			return
		case <-time.After(pollEvery):
		}
	}
}

// leaver is an Envoy from which another one has taken over. It accepts nobody, and
// tells each client at its answer to connect anew.
type leaver struct {
	*process
	idle chan struct{} // closed when nobody is connected to it any more, or it has ended
}

// retire watches an Envoy until its end, which comes from its successor: one whose
// predecessor is ended by anybody else aborts when it looks for it.
func (l *Launcher) retire(old, now *process) *leaver {
	out := &leaver{old, make(chan struct{})}
	l.retiring.Go(func() {
		late := time.NewTimer(l.grace() + killAfter)
		defer late.Stop()
		open, idle := 0, false
		for quiet := 0; ; {
			if n, err := callers("/proc", old.pid(), now.pid()); err == nil && !idle {
				open = n
				if quiet++; n > 0 {
					quiet = 0
				}
				if idle = quiet == 2; idle {
					close(out.idle)
				}
			}
			select {
			case <-old.done:
				if !idle {
					close(out.idle)
				}
				l.o.Log.Info("the Envoy before has ended", "epoch", old.epoch, "connections", open)
				return
			case <-late.C:
				l.o.Log.Warn("the Envoy before does not end, and is killed", "epoch", old.epoch)
				l.complain(old.kill())
			case <-time.After(2 * pollEvery):
			}
		}
	})
	return out
}

// grace is how long an Envoy lives on when another one has taken over: whole
// seconds, as Envoy's flag has it.
func (l *Launcher) grace() time.Duration { return max(l.o.Drain.Round(time.Second), time.Second) }
