package registry

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kerege/kerege/mesh"
)

func apiAt(source, node, addr string) mesh.Instance {
	return mesh.Instance{Service: "api", ID: node, Source: source, Node: node, Weight: 1, Protocol: "http", Addr: netip.MustParseAddrPort(addr)}
}

// The port of a service stays through an odd instance and a restart, also one in
// which the registry with the odd instance speaks first.
func TestTheServedPortSurvivesARestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		good := mesh.Part{Scope: "api", Instances: []mesh.Instance{apiAt("consul", "vm-1", "10.0.0.1:8080"), apiAt("consul", "vm-2", "10.0.0.2:8080")}}
		odd := mesh.Part{Scope: "api", Instances: []mesh.Instance{apiAt("nomad", "vm-9", "10.0.0.9:9999")}}
		is := func(r *rig, when string, want uint16) {
			t.Helper()
			if got := r.Snapshot().Service("api").Ports[0].Number; got != want {
				t.Errorf("%s: port %d, want %d", when, got, want)
			}
		}
		a, b := newScript("consul"), newScript("nomad")
		r := start(t, Options{DataDir: dir}, a, b)
		if err := r.Members().Put(mesh.Member{Service: "api", Node: "vm-1"}, mesh.Member{Service: "api", Node: "vm-2"}, mesh.Member{Service: "api", Node: "vm-9"}); err != nil {
			t.Fatal(err)
		}
		a.say <- good
		a.say <- done
		b.say <- done
		pass()
		is(r, "at the start", 8080)
		b.say <- odd
		pass()
		is(r, "with an odd one", 8080)
		r.close()
		if err := os.Remove(filepath.Join(dir, "sources.json")); err != nil {
			t.Fatal(err)
		}
		a, b = newScript("consul"), newScript("nomad")
		r = start(t, Options{DataDir: dir}, a, b)
		b.say <- odd
		b.say <- done
		pass()
		a.say <- good
		a.say <- done
		pass()
		is(r, "after a restart", 8080)
		a.say <- mesh.Part{Scope: "api"}
		b.say <- mesh.Part{Scope: "api"}
		time.Sleep(2 * time.Minute)
		if r.Snapshot().Service("api") != nil {
			t.Error("a service that nobody registers is there")
		}
		b.say <- mesh.Part{Scope: "api", Instances: []mesh.Instance{apiAt("nomad", "vm-5", "10.0.0.5:7070")}} // has not joined
		pass()
		is(r, "back after it was gone", 8080)
		r.close()
	})
}

func TestServedPortsAreForgotten(t *testing.T) {
	h := New(Options{})
	table := h.loadServed()
	now := time.Now()
	snap := func(services ...string) *mesh.Snapshot {
		parts := []mesh.Part{{Source: "file", Mesh: &mesh.Config{MTLS: mesh.MTLSPermissive}}}
		for i, s := range services {
			in := apiAt("consul", "vm-1", fmt.Sprintf("10.0.0.%d:8080", i+1))
			in.Service = mesh.ServiceName(s)
			parts = append(parts, mesh.Part{Source: "consul", Scope: s, Instances: []mesh.Instance{in}})
		}
		s, _ := mesh.Merge(parts...)
		return s
	}
	if got := table.note(now, snap("api", "web"), []string{"api", "web"}); len(got) != 2 {
		t.Fatalf("%d parts", len(got))
	}
	if got := table.note(now, snap("api", "web"), []string{"api", "web"}); len(got) != 0 {
		t.Errorf("%d parts of what is known", len(got))
	}
	table.note(now, snap("web"), []string{"api"})
	table.note(now.Add(servedMemory+time.Hour), snap("web", "db"), []string{"db"})
	if _, kept := table.named["api"]; kept || len(table.named) != 2 {
		t.Errorf("%v", table.named)
	}
}
