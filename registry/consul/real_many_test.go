//go:build e2e

package consul_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/kerege/kerege/mesh"
)

// Consul's default allows a client 200 connections; 300 services want more.
func TestRealConsulWithMoreServicesThanConnections(t *testing.T) {
	a := boot(t, "127.0.0.1", ports(t, "127.0.0.1", 3), nil)
	a.ready()
	if _, err := a.Catalog().Register(&api.CatalogRegistration{Node: "ext-1", Address: "10.0.0.1"}, nil); err != nil {
		t.Fatal(err)
	}
	for i := range 300 {
		a.entry(fmt.Sprint("s", i), 1)
	}
	began := time.Now()
	e := fromReal(t, a, "")
	t.Logf("300 services after %v", time.Since(began))
	within(t, 30*time.Second, "as many watches as there are connections, and no error", func() bool {
		r := e.src.Report()
		return r.State == mesh.SourceOK && r.Watches > 100 && r.Watches < 200
	})
	t.Logf("%v after the start: %+v", time.Since(began), e.src.Report())
	var worst time.Duration
	for i := 0; i < 300; i += 30 {
		began := time.Now()
		a.entry(fmt.Sprint("s", i), 2)
		within(t, 30*time.Second, "a change", func() bool { return e.count(fmt.Sprint("s", i)) == 2 })
		worst = max(worst, time.Since(began))
	}
	t.Logf("worst change %v; %.1f requests/s", worst, e.src.Report().RequestsPerSecond)
	if r := e.src.Report(); r.State != mesh.SourceOK {
		t.Errorf("report %+v", r)
	}
}
