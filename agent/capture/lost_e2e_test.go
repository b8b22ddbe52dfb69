//go:build e2e

package capture

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// brittle are iptables commands that only list while a file says so, and do
// nothing at all while another does.
func (r *rig) brittle() (c Commands, readOnly, blind string) {
	dir := r.t.TempDir()
	readOnly, blind = filepath.Join(dir, "read-only"), filepath.Join(dir, "blind")
	var out [2]string
	for i, tool := range []string{"iptables", "ip6tables"} {
		for _, suffix := range []string{"", "-restore"} {
			script := fmt.Sprintf("#!/bin/sh\n[ -e %[1]s ] && exit 3\n[ -e %[2]s ] && case \"$*\" in *\" -S\"*|*--version*) ;; *) exit 3;; esac\nexec %[3]s-%[4]s%[5]s \"$@\"\n", blind, readOnly, tool, r.backend, suffix)
			if err := os.WriteFile(filepath.Join(dir, tool+suffix), []byte(script), 0o755); err != nil {
				r.t.Fatal(err)
			}
		}
		out[i] = filepath.Join(dir, tool)
	}
	return Commands{out[0], out[1]}, readOnly, blind
}

// A flush that is mended is nothing; one that cannot be mended is known within
// seconds; tables that cannot be read tell nothing.
func TestLostIsWhatCannotBeMended(t *testing.T) {
	onBackends(t, func(t *testing.T, r *rig) {
		var readOnly, blind string
		r.o.Commands, readOnly, blind = r.brittle()
		r.o.Every = 100 * time.Millisecond
		r.m = New(r.o)
		r.envoys("")
		if why := r.m.Lost("app"); why != "" {
			t.Errorf("before anything was read: %s", why)
		}
		c := r.config()
		r.apply(c)
		name := c.Workloads[0].Name
		ctx, cancel := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- r.m.Run(ctx) }()
		defer func() { cancel(); <-done }()
		never := func(what string, d time.Duration) {
			t.Helper()
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
				if why := r.m.Lost(name); why != "" {
					t.Fatalf("%s: %s", what, why)
				}
			}
		}
		sh(t, "iptables-"+r.backend+" -t nat -F")
		never("a flush that is mended", time.Second)
		sh(t, "touch "+blind)
		never("tables that cannot be read", lostAfter+2*time.Second)
		sh(t, "rm "+blind+"; touch "+readOnly+"; iptables-"+r.backend+" -t nat -F")
		began := time.Now()
		until(t, "the loss", func() bool { return r.m.Lost(name) != "" })
		if why, took := r.m.Lost(name), time.Since(began); took < lostAfter/2 || !strings.Contains(why, "cannot be put back") {
			t.Errorf("after %s: %s", took, why)
		}
		sh(t, "rm "+readOnly)
		until(t, "the repair", func() bool { return r.m.Lost(name) == "" })
		if why := r.m.Lost("nosuch"); !strings.Contains(why, "leaves it out") {
			t.Errorf("one that is not captured: %q", why)
		}
		if _, err := r.m.Remove(context.Background()); err != nil {
			t.Fatal(err)
		}
		if why := r.m.Lost(name); !strings.Contains(why, "nothing is captured") {
			t.Errorf("after the removal: %q", why)
		}
	})
}
