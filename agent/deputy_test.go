package agent

import (
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
)

// TestAStoppedAgentIsStoodInForAWhile, one that died without end, and one that is
// back is never taken names from.
func TestAStoppedAgentIsStoodInForAWhile(t *testing.T) {
	for what, c := range map[string]struct {
		stopped bool
		back    time.Duration // after which the guard ends by itself; 0: never
		ends    time.Duration
		release bool
	}{
		"stopped for good":     {stopped: true, ends: standInFor, release: true},
		"restarted":            {stopped: true, back: time.Minute, ends: time.Minute},
		"died":                 {ends: 24 * time.Hour},
		"died, and comes back": {back: time.Hour, ends: time.Hour},
	} {
		synctest.Test(t, func(t *testing.T) {
			d := &deputy{log: hclog.NewNullLogger(), stopped: c.stopped}
			ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
			defer cancel()
			begin, released := time.Now(), false
			err := d.stand(ctx, func(ctx context.Context) error {
				d.ended()
				back := make(<-chan time.Time)
				if c.back > 0 {
					back = time.After(c.back)
				}
				select {
				case <-ctx.Done():
				case <-back:
				}
				return nil
			}, func(ctx context.Context) error { released = true; return ctx.Err() })
			if took := time.Since(begin); err != nil || took != c.ends || released != c.release {
				t.Errorf("%s: over after %s, names released: %v, %v", what, took, released, err)
			}
		})
	}
}

// TestAnAgentSaysThatItGoesInOrder: its last word is known when its end is.
func TestAnAgentSaysThatItGoesInOrder(t *testing.T) {
	for _, says := range []bool{true, false} {
		ours, file, err := socketPair()
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := unixConn(file)
		file.Close()
		if err != nil {
			t.Fatal(err)
		}
		d := &deputy{log: hclog.NewNullLogger(), over: func() {}}
		if says {
			err = (&standIn{conn: ours}).tell(notice{Leaving: true})
		}
		if err = errors.Join(err, ours.Close()); err != nil {
			t.Fatal(err)
		}
		if n, err := (agentEnd{theirs, d}).Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) || d.stopped != says || (d.timer != nil) != says {
			t.Errorf("it said so: %v; heard %v (%d, %v)", says, d.stopped, n, err)
		}
		if d.timer != nil {
			d.timer.Stop()
		}
		theirs.Close()
	}
}
