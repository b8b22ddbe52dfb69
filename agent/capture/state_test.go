//go:build e2e

package capture

import (
	"context"
	"os"
	"strings"
	"testing"
)

// E10: the record read-only, and deleted.
func TestTheRecordIsLost(t *testing.T) {
	onNFT(t, func(t *testing.T, r *rig) {
		ctx := context.Background()
		dir := t.TempDir()
		sh(t, "mount -t tmpfs tmpfs "+dir)
		defer sh(t, "umount "+dir)
		r.o.StateDir = dir
		r.m = New(r.o)
		r.envoys("")
		r.apply(r.config())
		sh(t, "mount -o remount,ro "+dir)
		more := r.config()
		more.NeverPorts = []uint16{7777}
		if _, err := r.m.Apply(ctx, more, 0); err == nil || !strings.Contains(err.Error(), "nothing was changed") {
			t.Errorf("applied what cannot be recorded: %v", err)
		}
		if text := sh(t, "iptables-nft -t nat -S"); strings.Contains(text, "7777") {
			t.Error("changed all the same")
		}
		if err := r.m.SetDNS(ctx, false); err != nil && !strings.Contains(err.Error(), "read-only") {
			t.Error(err)
		}
		if text := sh(t, "iptables-nft -t nat -S"); strings.Contains(text, "15053") {
			t.Error("the DNS jump does not go")
		}
		r.m.tick(ctx)
		if text := sh(t, "iptables-nft -t nat -S"); strings.Contains(text, "15053") {
			t.Error("the DNS jump is back by itself")
		}
		sh(t, "mount -o remount,rw "+dir)
		if err := r.m.SetDNS(ctx, true); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(dir + "/capture.json"); err != nil {
			t.Fatal(err)
		}
		sh(t, "iptables-nft -t nat -F")
		r.m.tick(ctx)
		r.expect("", uidApp, "240.0.0.7:80", "out15001 240.0.0.7:80")
		if _, err := os.Stat(dir + "/capture.json"); err != nil {
			t.Errorf("not written again: %v", err)
		}
		if _, err := r.m.Remove(ctx); err != nil {
			t.Fatal(err)
		}
	})
}

// A record that is cut short is kept and said, its rules are not touched, and an
// apply or a removal mends it.
func TestTheRecordIsDamaged(t *testing.T) {
	onNFT(t, func(t *testing.T, r *rig) {
		ctx := context.Background()
		before := r.listingOf()
		r.envoys("")
		for damage, mend := range map[string]func(){"": func() { r.apply(r.config()) }, `{"version":`: func() { _, _ = r.m.Remove(ctx) }, `{"version":99}`: func() { _, _ = r.m.Remove(ctx) }} {
			r.apply(r.config())
			path := r.o.StateDir + "/capture.json"
			if err := os.WriteFile(path, []byte(damage), 0o600); err != nil {
				t.Fatal(err)
			}
			r.m = New(r.o)
			r.m.tick(ctx)
			r.m.attend()
			s, err := r.m.Status(ctx)
			if err != nil || s.Applied || !strings.Contains(s.Pending, path) || !strings.Contains(s.Pending, "kerege capture apply") {
				t.Errorf("%q: %+v, %v", damage, s, err)
			}
			kept := sh(t, "cat "+path+".refused-*; rm "+path+".refused-*")
			if kept != damage {
				t.Errorf("%q: kept is %q", damage, kept)
			}
			r.expect("", uidApp, "240.0.0.7:80", "out15001 240.0.0.7:80")
			mend()
			if s, err := r.m.Status(ctx); err != nil || s.Pending != "" {
				t.Errorf("%q: after the mending: %+v, %v", damage, s, err)
			}
			if _, err := r.m.Remove(ctx); err != nil {
				t.Fatal(err)
			}
			if after := r.listingOf(); after != before {
				t.Errorf("%q: left\n%s", damage, after)
			}
		}
	})
}

// What an Envoy calls of another workload of the host comes to that one's inbound
// port; what it calls of its own goes to the application.
func TestHairpin(t *testing.T) {
	onBackends(t, func(t *testing.T, r *rig) {
		r.envoys("")
		r.serve("", "api", ":9090")
		c := r.config()
		c.EnvoyUIDs = []uint32{uidEnvoy, uidAgent}
		c.Workloads[0].EnvoyUID, c.Workloads[1].EnvoyUID = uidEnvoy, uidAgent
		r.apply(c)
		r.expect("", uidEnvoy, hostIP+":9090", "in15016 "+hostIP+":9090")
		r.expect("", uidEnvoy, "["+hostIP6+"]:9090", "in15016 ["+hostIP6+"]:9090")
		r.expect("", uidEnvoy, "127.0.0.1:9090", "api direct")
		r.expect("", uidAgent, hostIP+":9090", "api direct") // api's own
		r.expect("", uidAgent, "["+hostIP6+"]:9090", "api direct")
		r.expect("", 0, hostIP+":9090", "api direct") // a registry's check on the host
		if a := r.apply(c); a.Changed {
			t.Error("the second apply wrote")
		}
	})
}

func TestPlanOnTheKernel(t *testing.T) {
	onNFT(t, func(t *testing.T, r *rig) {
		r.serve("", "app", ":8080")
		r.serve(outNS, "far", ":9000")
		if _, err := dial("", uidApp, outIP+":9000"); err != nil {
			t.Fatal(err)
		}
		if _, err := dial(outNS, 0, hostIP+":8080"); err != nil {
			t.Fatal(err)
		}
		before := r.listingOf()
		p, err := r.m.Plan(context.Background(), r.config(), Known{Mode: map[string]string{"web": "strict"}})
		if err != nil {
			t.Fatal(err)
		}
		web := p.Workloads[1]
		if web.Name != "web" || len(web.Callers) != 1 || web.Callers[0].Addr.String() != outIP || web.Open != 1 || web.Outside[0].Addr.String() != outIP+":9000" {
			t.Errorf("%+v", web)
		}
		if len(p.Stops) != 1 || !strings.Contains(p.Stops[0].Error(), "1 of its callers are not in the mesh") {
			t.Errorf("%+v", p.Stops)
		}
		if p.Host.Backend != "nft" || p.Host.Chains != 6 || p.Host.Jumps != 3 || p.Host.Families != 2 || p.Host.Settled {
			t.Errorf("%+v", p.Host)
		}
		if r.listingOf() != before {
			t.Error("a plan changed the host")
		}
		r.apply(r.config())
		if p, err = r.m.Plan(context.Background(), r.config(), Known{}); err != nil || !p.Host.Settled || len(p.Stops) > 0 {
			t.Errorf("%+v, %v", p, err)
		}
	})
}
