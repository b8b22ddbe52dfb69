package ca

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestSignaturesAreTakenInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLimiter(500)
		begin := time.Now()
		var wg sync.WaitGroup
		var mu sync.Mutex
		last := map[string]time.Duration{}
		passed := 0
		wait := func(node string) {
			wg.Go(func() {
				if err := l.Wait(context.Background(), node); err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				defer mu.Unlock()
				passed++
				last[node] = time.Since(begin)
			})
		}
		for n := range 100 {
			for range 50 {
				wait(fmt.Sprintf("greedy-%d", n))
			}
		}
		synctest.Wait()
		for n := range 10 {
			wait(fmt.Sprintf("modest-%d", n))
		}
		wg.Wait()
		if took := time.Since(begin); passed != 5010 || took < 9*time.Second || took > 11*time.Second {
			t.Errorf("%d signatures in %v; 500 a second is the limit", passed, took)
		}
		for n := range 10 {
			if d := last[fmt.Sprintf("modest-%d", n)]; d > 500*time.Millisecond {
				t.Errorf("a node that asked for one waited %v", d)
			}
		}
	})
}

func TestTooManyWaitersAreToldSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := NewLimiter(10)
		if err := l.Wait(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range maxWaitingNode {
			wg.Go(func() { l.Wait(ctx, "a") })
		}
		synctest.Wait()
		if err := l.Wait(t.Context(), "a"); !errors.Is(err, ErrBusy) {
			t.Error(err)
		}
		cancel()
		wg.Wait()
		if l.waiting != 0 || len(l.queues) != 0 || len(l.ring) != 0 {
			t.Errorf("those who gave up still wait: %d, %v, %v", l.waiting, l.queues, l.ring)
		}
		time.Sleep(time.Second)
		if err := l.Wait(t.Context(), "a"); err != nil {
			t.Error(err)
		}
	})
}
