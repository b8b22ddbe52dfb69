//go:build e2e

package capture

import (
	"context"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"
)

// Agents that are killed anywhere while five others apply, twenty times over: an
// operator's session and an open connection of a workload live through all of it,
// each apply ends well or says what is pending, and in the end there is one set
// of rules, and then none.
func TestKilledAmongOthersThatApply(t *testing.T) {
	onBackends(t, func(t *testing.T, r *rig) {
		before := r.listingOf()
		r.envoys("")
		r.serve("", "sshd", ":22")
		r.serve(outNS, "far", ":9000")
		open := map[string]session{}
		for who, to := range map[string]struct {
			netns, addr string
			uid         uint32
		}{"sshd direct": {outNS, hostIP + ":22", 0}, "far direct": {"", outIP + ":9000", uidApp}} {
			s, err := dial(to.netns, to.uid, to.addr)
			if err != nil {
				t.Fatal(err)
			}
			open[who] = s
		}
		whole := r.config()
		part := r.config()
		part.DNS, part.Workloads = false, part.Workloads[:1]
		seed := rand.Uint64()
		dice := rand.New(rand.NewPCG(seed, 1))
		t.Logf("seed %d", seed)
		said := r.words(slim{r.o.StateDir, r.o.Commands})
		for round := range 20 {
			agent := r.role("agent", said, r.words(whole))
			if err := agent.Start(); err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			for i := range 5 {
				c := whole
				if (round+i)%2 == 0 {
					c = part
				}
				wg.Go(func() {
					out, err := r.role("apply", said, r.words(c), "0s").CombinedOutput()
					if err != nil && !strings.Contains(string(out), "capture pending") {
						t.Errorf("round %d, apply %d: %v: %s", round, i, err, out)
					}
				})
			}
			time.Sleep(time.Duration(dice.IntN(150)) * time.Millisecond)
			agent.Process.Kill()
			_ = agent.Wait()
			wg.Wait()
			for want, s := range open {
				if got := s.ask(); got != want {
					t.Fatalf("round %d: an open connection: %q, not %q", round, got, want)
				}
			}
			r.expect(outNS, 0, hostIP+":22", "sshd direct")
		}
		r.m = New(r.o)
		r.apply(whole)
		r.expect("", uidApp, outIP+":9000", "out15001 "+outIP+":9000")
		for _, tool := range []string{"iptables", "ip6tables"} {
			all := sh(t, tool+"-"+r.backend+" -t nat -S")
			if strings.Count(all, "-j KEREGE_OUT\n") != 1 || strings.Count(all, "-N KEREGE_") != 4 {
				t.Errorf("not one set of rules:\n%s", all)
			}
		}
		if _, err := r.m.Remove(context.Background()); err != nil {
			t.Error(err)
		}
		if after := r.listingOf(); after != before {
			t.Errorf("before\n%s\nafter\n%s", before, after)
		}
	})
}
