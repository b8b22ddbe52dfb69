package server

import (
	"strings"
	"testing"

	"github.com/kerege/kerege/api"
	"github.com/kerege/kerege/e2e/xdsim"
)

const odd = `
service "api" {
  instance "api-1" {
    address = "10.0.0.2"
    port    = 8080
    node    = "vm-2"
  }

  instance "api-9" {
    address = "10.0.0.9"
    port    = 9999
    node    = "vm-9"
  }
}
`

// One odd instance leaves callers the port that they have, and is named where an
// operator looks.
func TestAnOddInstanceIsNamed(t *testing.T) {
	r, c := connected(t, xdsim.Mode{})
	noError(t, r.s.hub.Settle(t.Context())) // its host is in, so the port is served
	at := strings.Index(files, `service "api"`)
	end := strings.Index(files, `intention "api"`)
	r.write(files[:at] + odd + files[end:])
	named := func(where string, texts ...string) {
		t.Helper()
		all := strings.Join(texts, "\n")
		if !strings.Contains(all, `"api-9" on "vm-9"`) || !strings.Contains(all, "service \"api\" { port") || len(texts) != 1 {
			t.Errorf("%s says %q", where, all)
		}
	}
	p := local[api.Plan](r, "POST", "/v1/plan", "")
	var planned []string
	for _, w := range p.Warnings {
		planned = append(planned, w.Text)
	}
	named("plan", planned...)
	local[api.Applied](r, "POST", "/v1/apply", "")
	for _, v := range local[[]api.Service](r, "GET", "/v1/services", "") {
		if v.Name != "api" {
			continue
		}
		named("services", v.Warnings...)
		if v.Ports[0].Number != 8080 {
			t.Errorf("the port is %d", v.Ports[0].Number)
		}
	}
	var conflicts []string
	for _, k := range local[api.Status](r, "GET", "/v1/status", "").Conflicts {
		conflicts = append(conflicts, k.What)
	}
	named("status", conflicts...)
	if c.Held(xdsim.Cluster)["api:8080"] == "" {
		t.Errorf("the caller has %v", c.Held(xdsim.Cluster))
	}
}
