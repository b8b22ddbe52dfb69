package command

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/kerege/kerege/telemetry"
)

// feedWatchdog tells systemd that this process is alive, as often as its unit
// asks for, as long as check passes. It returns when stop has ended it.
func feedWatchdog(ctx context.Context, log hclog.Logger, notify telemetry.Notifier, check func(context.Context) error) (stop func()) {
	every := telemetry.WatchdogEvery()
	if every == 0 {
		return func() {}
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx)) // going down may take its time, too
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(every / 2)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			asking, done := context.WithTimeout(ctx, every/2)
			err := check(asking)
			done()
			if ctx.Err() != nil {
				return
			}
			if err == nil {
				tell(log, notify.Alive())
			} else {
				log.Error("this process does not answer itself: the watchdog is not fed", "error", err)
			}
		}
	})
	return func() {
		cancel()
		wg.Wait()
	}
}

// onHangup calls do at each SIGHUP until stop is called.
func onHangup(do func()) (stop func()) {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-done:
				return
			case <-hup:
				do()
			}
		}
	})
	return func() {
		signal.Stop(hup)
		close(done)
		wg.Wait()
	}
}
