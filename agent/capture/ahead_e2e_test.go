//go:build e2e

package capture

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"
)

// A rule that somebody puts before ours and that takes a workload's calls is seen,
// and ours is first again; one that cannot stays. Who insists is left, and said.
func TestARuleBeforeOurs(t *testing.T) {
	onBackends(t, func(t *testing.T, r *rig) {
		r.o.Every = 100 * time.Millisecond
		r.m = New(r.o)
		r.envoys("")
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
		first := func(tool string) string {
			_, rest, _ := strings.Cut(sh(t, tool+"-"+r.backend+" -t nat -S OUTPUT"), "\n")
			line, _, _ := strings.Cut(rest, "\n")
			return line
		}
		innocent := "-A OUTPUT -p udp -m udp --dport 123 -j ACCEPT"
		sh(t, "iptables-"+r.backend+" -t nat -I OUTPUT -p udp -m udp --dport 123 -j ACCEPT")
		insert := fmt.Sprintf("iptables-%s -t nat -I OUTPUT -p tcp -m comment --comment 'a name' -j ACCEPT", r.backend)
		for i := range leadMost {
			sh(t, insert)
			until(t, "ours to be first again", func() bool { return r.m.Repairs() == int64(i+1) })
			r.expect("", uidApp, "240.0.0.7:80", "out15001 240.0.0.7:80")
		}
		if got := first("iptables"); got != "-A OUTPUT -j KEREGE_OUT" {
			t.Errorf("first is %q", got)
		}
		sh(t, fmt.Sprintf("iptables-%s -t nat -D OUTPUT -p udp -m udp --dport 123 -j ACCEPT; iptables-%[1]s -t nat -I OUTPUT -p udp -m udp --dport 123 -j ACCEPT", r.backend))
		time.Sleep(5 * r.o.Every) // in which nothing happens
		if got := first("iptables"); got != innocent || r.m.Overtaken() != 0 {
			t.Errorf("an innocent rule was moved: first is %q; overtaken %d", got, r.m.Overtaken())
		}

		sh(t, insert)
		until(t, "the rule that is put back to be left, and said", func() bool { return r.m.Overtaken() == 1 })
		want := "iptables -t nat -A OUTPUT -p tcp -j ACCEPT"
		s, err := r.m.Status(context.Background())
		if err != nil || s.Repairs != leadMost || len(s.Namespaces) != 1 || s.Namespaces[0].Settled || !strings.Contains(s.Namespaces[0].Error, want) {
			t.Errorf("status %+v, %v", s, err)
		}
		probes, err := r.m.Verify(context.Background())
		if err != nil || Passed(probes) || !strings.Contains(probes[0].Why, want) {
			t.Errorf("probes %+v, %v", probes, err)
		}
		if _, settled := r.m.Brief(); settled {
			t.Error("settled, with a rule ahead")
		}
		// The other family was left alone, and an operator's apply is worth another try.
		if got := first("ip6tables"); got != "-A OUTPUT -j KEREGE_OUT" {
			t.Errorf("first of IPv6 is %q", got)
		}
		if _, err := r.m.Apply(context.Background(), r.config(), time.Minute); err != nil {
			t.Error(err)
		}
		until(t, "ours to be first again after an apply", func() bool { return r.m.Overtaken() == 0 })
		r.expect("", uidApp, "240.0.0.7:80", "out15001 240.0.0.7:80")
		if _, err := r.m.Remove(context.Background()); err != nil {
			t.Error(err)
		}
		if left := sh(t, "iptables-"+r.backend+" -t nat -S OUTPUT"); strings.Count(left, "-j ACCEPT") != 2+leadMost || strings.Contains(left, "KEREGE") {
			t.Errorf("left: %s", left)
		}
	})
}
