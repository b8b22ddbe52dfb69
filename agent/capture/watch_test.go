//go:build e2e

package capture

import (
	"context"
	"testing"
	"time"
)

// On nftables the kernel says that rules were flushed: they are back long before
// the next look by the clock, queries and all. A look itself wakes nobody.
func TestAFlushIsHeard(t *testing.T) {
	onNFT(t, func(t *testing.T, r *rig) {
		r.o.Every = time.Hour
		r.m = New(r.o)
		r.envoys("")
		r.answer("", "127.0.0.1:15053", "agent")
		r.apply(r.config())
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- r.m.Run(ctx) }()
		defer func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}()
		until(t, "the first look", func() bool { s, _ := r.m.file.load(); return s.Agent.alive() })
		time.Sleep(2 * lookApart) // in which what the apply has written is looked at, and nothing more comes
		for i := range 3 {
			sh(t, "iptables-nft -t nat -F; ip6tables-nft -t nat -F")
			began := time.Now()
			until(t, "the repair", func() bool { return r.m.Repairs() == int64(i+1) })
			took := time.Since(began)
			t.Logf("MEASURED rules back %s after a flush", took.Round(time.Millisecond))
			if limit := time.Second; i == 0 && took > limit {
				t.Errorf("flush %d: back after %s, not within %s", i, took, limit)
			}
			if answer, err := query(uidApp, hostIP, 40000+i, outIP); err != nil || answer != "agent from "+outIP+":53" {
				t.Errorf("a query after it: %s %v", answer, err)
			}
			r.expect("", uidApp, "240.0.0.7:80", "out15001 240.0.0.7:80")
		}
	})
}
