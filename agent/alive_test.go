package agent

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
)

// TestAStepThatHangsIsNoLife: one that fails again and again is alive, one that
// does not come back is not.
func TestAStepThatHangsIsNoLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var a Agent
		hang := false
		l := newLadder(hclog.NewNullLogger(), []step{{"dns", func(ctx context.Context) (func(), error) {
			if hang {
				<-ctx.Done()
			}
			return nil, errors.New("port 53 is taken")
		}}})
		l.pulse = &a.pulse
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); l.run(ctx, func() {}) }()
		time.Sleep(time.Hour)
		synctest.Wait()
		if err := a.Alive(); err != nil {
			t.Errorf("it fails, and is tried again: %v", err)
		}
		hang = true
		time.Sleep(time.Minute)
		if err := a.Alive(); err != nil {
			t.Errorf("after a minute: %v", err)
		}
		time.Sleep(stuckAfter)
		if err := a.Alive(); err == nil || !strings.Contains(err.Error(), "dns") {
			t.Errorf("it hangs: %v", err)
		}
		cancel()
		<-done
		if err := a.Alive(); err != nil {
			t.Errorf("it has ended: %v", err)
		}
	})
}
