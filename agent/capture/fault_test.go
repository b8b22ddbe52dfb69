//go:build e2e

package capture

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func (r *rig) words(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		r.t.Fatal(err)
	}
	return string(text)
}

// slim is Options as another process gets them.
type slim struct {
	StateDir string
	Commands Commands
}

// killers are iptables commands that kill who called them before the n-th.
func (r *rig) killers() Commands {
	dir := r.t.TempDir()
	var out [2]string
	for i, tool := range []string{"iptables", "ip6tables"} {
		for _, suffix := range []string{"", "-restore"} {
			path := filepath.Join(dir, tool+suffix)
			script := fmt.Sprintf(`#!/bin/sh
case "$*" in *--version*) exec %[1]s-%[2]s%[3]s "$@";; esac
n=$(flock %[4]s/n sh -c 'n=$(($(cat %[4]s/count)+1)); echo $n > %[4]s/count; echo $n')
[ "$n" = "$(cat %[4]s/at)" ] && kill -9 $PPID && exit 1
exec %[1]s-%[2]s%[3]s "$@"
`, tool, r.backend, suffix, dir)
			if err := os.WriteFile(path, []byte(script), 0o755); err != nil {
				r.t.Fatal(err)
			}
		}
		out[i] = filepath.Join(dir, tool)
	}
	return Commands{out[0], out[1]}
}

// E1 on the real thing: killed before any command, SSH works, calls meet old or
// new, and the next start converges.
func TestKilledAtEveryCommand(t *testing.T) {
	onBackends(t, func(t *testing.T, r *rig) {
		before := r.listingOf()
		r.envoys("")
		r.serve("", "sshd", ":22")
		r.serve("", "api", ":9090")
		r.serve(outNS, "far", ":9000")
		killers := r.killers()
		dir := filepath.Dir(killers.IPTables)
		old := r.config()
		old.DNS = false
		old.Workloads = old.Workloads[:1]
		now := r.config()
		points, stride := 0, 4
		if os.Getenv("KEREGE_ALL_KILL_POINTS") != "" {
			stride = 1 // two minutes
		}
		for ended := false; !ended && points < 400; points += stride {
			from := points/stride%2 == 0 // every second from nothing
			if from {
				r.apply(old)
			}
			at := points/2 + 1
			sh(t, fmt.Sprintf("echo 0 > %[1]s/count; echo %[2]d > %[1]s/at; touch %[1]s/n", dir, at))
			cmd := r.role("apply", r.words(slim{r.o.StateDir, killers}), r.words(now), "0s")
			out, err := cmd.CombinedOutput()
			ended = err == nil && !from
			if err != nil && !strings.Contains(err.Error(), "killed") {
				t.Fatalf("at %d: %v: %s", at, err, out)
			}
			r.expect(outNS, 0, hostIP+":22", "sshd direct")
			if got := call("", uidApi, outIP+":9000"); got != "far direct" && got != "out15011 "+outIP+":9000" {
				t.Errorf("at %d: neither old nor new: %q", at, got)
			}
			if got := call(outNS, 0, hostIP+":9090"); got != "api direct" && got != "in15016 "+hostIP+":9090" {
				t.Errorf("at %d: inbound, neither old nor new: %q", at, got)
			}
			r.m = New(r.o) // the next start
			for range 3 {  // a command of the killed process may still be on its way
				r.m.tick(context.Background())
			}
			if a := r.apply(now); a.Changed && at > 6 { // before that, nothing of it was recorded
				t.Errorf("at %d: the next start did not converge", at)
			}
			r.expect("", uidApi, outIP+":9000", "out15011 "+outIP+":9000")
			if _, err := r.m.Remove(context.Background()); err != nil {
				t.Fatal(err)
			}
			if after := r.listingOf(); after != before {
				t.Fatalf("at %d: before\n%s\nafter\n%s", at, before, after)
			}
		}
		t.Logf("MEASURED %s: %d kill points survived", r.backend, points/stride-1)
		if points < 60 {
			t.Errorf("only %d kill points", points)
		}
	})
}

func TestFlushedByAnotherTool(t *testing.T) {
	onBackends(t, func(t *testing.T, r *rig) {
		r.o.Every = 100 * time.Millisecond
		r.m = New(r.o)
		r.envoys("")
		sh(t, "iptables-"+r.backend+" -t nat -A OUTPUT -d 10.7.7.7/32 -j ACCEPT")
		r.apply(r.config())
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- r.m.Run(ctx) }()
		for i, damage := range []string{"iptables-%s -t nat -F", "ip6tables-%s -t nat -F OUTPUT", "iptables-%s -t nat -F; iptables-%[1]s -t nat -X", "ip route del 240.0.0.0/4 # %s"} {
			sh(t, fmt.Sprintf(damage, r.backend))
			until(t, "the repair of "+damage, func() bool { return r.m.Repairs() == int64(i+1) })
			r.expect("", uidApp, "240.0.0.7:80", "out15001 240.0.0.7:80")
			r.expect("", uidApp, "[fd6b:6572:6567::7]:80", "out15001 [fd6b:6572:6567::7]:80")
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		s, err := r.m.Status(context.Background())
		if err != nil || s.Repairs != 4 || !s.Namespaces[0].Settled || s.Namespaces[0].Backend != r.backend {
			t.Errorf("status %+v, %v", s, err)
		}
	})
}

func TestUnconfirmedIsUndone(t *testing.T) {
	onNFT(t, func(t *testing.T, r *rig) {
		before := r.listingOf()
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- r.m.Run(ctx) }()
		defer func() { cancel(); <-done }()
		if _, err := r.m.Apply(ctx, r.config(), time.Second); err != nil {
			t.Fatal(err)
		}
		if r.listingOf() == before {
			t.Fatal("nothing was applied")
		}
		until(t, "the undoing", func() bool { return r.listingOf() == before })
		// Confirmed, it stays; and an unconfirmed change goes back to what was confirmed.
		if _, err := r.m.Apply(ctx, r.config(), 500*time.Millisecond); err != nil {
			t.Fatal(err)
		}
		if err := r.m.Confirm(ctx); err != nil {
			t.Fatal(err)
		}
		confirmed := sh(t, "iptables-nft -t nat -S | grep dport")
		narrow := r.config()
		narrow.DNS = false
		if _, err := r.m.Apply(ctx, narrow, 500*time.Millisecond); err != nil {
			t.Fatal(err)
		}
		until(t, "the going back", func() bool {
			s, err := r.m.Status(ctx)
			return err == nil && s.Deadline.IsZero() && s.Config.DNS
		})
		if now := sh(t, "iptables-nft -t nat -S | grep dport"); strings.ReplaceAll(now, "_A", "_B") != strings.ReplaceAll(confirmed, "_A", "_B") {
			t.Errorf("went back to\n%s\nnot to\n%s", now, confirmed)
		}
		if err := New(Options{StateDir: t.TempDir()}).Confirm(ctx); err == nil {
			t.Error("confirmed nothing")
		}
	})
}

// An agent that is killed leaves no jump to a resolver that is gone, no rules of
// a workload in bypass whose Envoy is gone, and nothing unconfirmed.
func TestAgentKilled(t *testing.T) {
	onNFT(t, func(t *testing.T, r *rig) {
		before := r.listingOf()
		r.serve(outNS, "far", ":9000")
		c := r.config()
		c.Workloads[0].Bypass = true
		agent := r.role("agent", r.words(slim{r.o.StateDir, r.o.Commands}), r.words(c))
		out, err := agent.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := agent.Start(); err != nil {
			t.Fatal(err)
		}
		if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "up\n" {
			t.Fatal(line, err)
		}
		// Run records the agent once it has begun.
		until(t, "the record", func() bool { s, _ := r.m.file.load(); return s.Agent.alive() })
		guard := r.role("guard", r.words(slim{r.o.StateDir, r.o.Commands}))
		guard.Stderr = os.Stdout
		alive, err := guard.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := guard.Start(); err != nil {
			t.Fatal(err)
		}
		if orphan, err := r.m.Orphaned(context.Background()); orphan || err != nil {
			t.Fatalf("an orphan beside a living agent: %v, %v", orphan, err)
		}
		agent.Process.Kill()
		agent.Wait()
		begin := time.Now()
		alive.Close()
		until(t, "the DNS jump to go", func() bool { return !strings.Contains(sh(t, "iptables-nft -t nat -S"), "15053") })
		t.Logf("MEASURED DNS jump out %s after the agent's death (goal 1s)", time.Since(begin).Round(time.Millisecond))
		if time.Since(begin) > time.Second {
			t.Error("later than 1 s")
		}
		r.expect("", uidApp, outIP+":9000", "far direct")
		if got := call("", uidApi, outIP+":9000"); !strings.Contains(got, "refused") {
			t.Errorf("fail closed: %q", got)
		}
		until(t, "the guard's end", func() bool { s, err := r.m.file.load(); return err == nil && s.Config == nil })
		if after := r.listingOf(); after != before {
			t.Errorf("before\n%s\nafter\n%s", before, after)
		}
		if err := guard.Wait(); err != nil {
			t.Error(err)
		}
	})
}

func TestLockHeld(t *testing.T) {
	t.Run("legacy", func(t *testing.T) {
		isolated(t, "legacy", func(t *testing.T, r *rig) {
			r.o.Wait = Wait{Lock: time.Second, Tries: 1}
			r.m = New(r.o)
			f, err := os.Create("/run/xtables.lock")
			if err != nil {
				t.Fatal(err)
			}
			if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX); err != nil {
				t.Fatal(err)
			}
			_, err = r.m.Apply(context.Background(), r.config(), 0)
			var pending *Pending
			if !errors.As(err, &pending) {
				t.Fatalf("got %v", err)
			}
			if s, err := r.m.Status(context.Background()); err != nil || !strings.Contains(s.Pending, "held by another program") {
				t.Errorf("status %+v, %v", s, err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error, 1)
			go func() { done <- r.m.Run(ctx) }()
			f.Close() // unlocks
			r.envoys("")
			until(t, "the capture", func() bool { return call("", uidApp, "240.0.0.7:80") == "out15001 240.0.0.7:80" })
			cancel()
			<-done
		})
	})
}

func TestTheBackendThatHoldsRules(t *testing.T) {
	onNFT(t, func(t *testing.T, r *rig) {
		ctx := context.Background()
		ask := func() Backend {
			t.Helper()
			b, err := detect(ctx, Commands{}, "")
			if err != nil {
				t.Fatal(err)
			}
			return b
		}
		if b := ask(); b.Name != "nft" || b.Warning != "" || b.Foreign != 0 {
			t.Errorf("nothing: %+v", b)
		}
		if _, err := os.Stat("/proc/net/ip_tables_names"); err == nil {
			if text, _ := os.ReadFile("/proc/net/ip_tables_names"); len(text) > 0 {
				t.Errorf("looking made tables: %s", text)
			}
		}
		sh(t, "iptables-legacy -t filter -A INPUT -s 10.7.7.7/32 -j DROP")
		if b := ask(); b.Name != "legacy" || b.Foreign != 1 || b.Warning != "" {
			t.Errorf("legacy: %+v", b)
		}
		sh(t, "iptables-nft -t filter -A INPUT -s 10.7.7.7/32 -j DROP")
		if b := ask(); b.Name != "nft" || !strings.Contains(b.Warning, "1 rules are in iptables-legacy") {
			t.Errorf("both: %+v", b)
		}
		// Our own chains decide over all else.
		r.o.Commands = Commands{"iptables-legacy", "ip6tables-legacy"}
		r.m = New(r.o)
		r.apply(r.config())
		if b := ask(); b.Name != "legacy" {
			t.Errorf("ours: %+v", b)
		}
		m := New(Options{StateDir: t.TempDir()}) // a lost record: removal finds them all the same
		if changed, err := m.Remove(ctx); err != nil || !changed {
			t.Errorf("removal without a record: %v %v", changed, err)
		}
		if text := sh(t, "iptables-legacy -t nat -S; ip route"); strings.Contains(text, "KEREGE") || strings.Contains(text, "240.0.0.0") {
			t.Errorf("left:\n%s", text)
		}
	})
}

func TestSlice(t *testing.T) {
	onBackends(t, func(t *testing.T, r *rig) {
		slice := fmt.Sprintf("krcap%d%s.slice", os.Getpid(), r.backend)
		dir := filepath.Join(cgroupMount(), slice)
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		r.o.Dial = []string{"env", "KEREGE_CAPTURE_ROLE=dial", self}
		r.m = New(r.o)
		c := Config{Workloads: []Workload{{Name: "web", Slice: slice, OutboundPort: 15001}}}
		var stop *Stop
		if _, err := r.m.Apply(context.Background(), c, 0); !errors.As(err, &stop) {
			t.Fatalf("a slice that does not exist: %v", err)
		}
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		defer os.Remove(dir)
		r.envoys("")
		r.apply(c)
		verify := func() []Probe {
			probes, err := r.m.Verify(context.Background())
			if err != nil {
				t.Fatal(err)
			}
			return probes
		}
		if p := verify(); !Passed(p) || len(p) != 3 {
			t.Fatalf("%+v", p)
		}
		if got := call("", uidApp, "240.0.0.7:80"); !strings.Contains(got, "no answer") {
			t.Errorf("outside the slice: %q", got)
		}
		// The slice is made anew: the rules look the same and match nothing.
		if err := errors.Join(os.Remove(dir), os.Mkdir(dir, 0o755)); err != nil {
			t.Fatal(err)
		}
		if Passed(verify()) {
			t.Error("a dead rule passes")
		}
		r.m.tick(context.Background())
		if p := verify(); !Passed(p) {
			t.Errorf("not mended: %+v", p)
		}
	})
}

func TestFindingWhoListens(t *testing.T) {
	onNFT(t, func(t *testing.T, r *rig) {
		var l net.Listener
		err := asWorkload(Config{}, Workload{UIDs: []uint32{uidApp}}, func() (err error) {
			l, err = net.Listen("tcp", ":8080")
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		got, err := Find("", 8080)
		if err != nil || len(got) != 1 || got[0].UID != uidApp || got[0].PID != os.Getpid() || got[0].Port != 8080 {
			t.Errorf("%+v, %v", got, err)
		}
		if _, err := exec.LookPath("ss"); err != nil {
			t.Fatal(err)
		}
	})
}
