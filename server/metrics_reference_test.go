package server

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kerege/kerege/agent"
	"github.com/kerege/kerege/telemetry"
)

var update = flag.Bool("update", false, "write the reference anew")

// TestMetricsReference keeps docs/reference/metrics.md what the server declares.
func TestMetricsReference(t *testing.T) {
	var b strings.Builder
	b.WriteString(`# Metrics

Generated from what server and agent declare: ` + "`go test ./server -run Reference -update`" + `.

A server answers in Prometheus's text format at three places: GET /metrics of its API (https, behind the operator's token, in
` + "`x-kerege-token` or as `Authorization: Bearer`" + `), of its local socket, and of ` + "`addresses.metrics`" + `: plain HTTP, which is "none" unless you
write one. That port has /healthz, too: 200 when proxies are served, 503 while the server waits for a registry.

No label names a service, an endpoint, a path or a proxy, so the number of series does not grow with the mesh.

| metric | kind | label | |
|---|---|---|---|
`)
	rows := func(families []telemetry.Family) {
		for _, f := range families {
			label := f.Label
			if f.Values != nil {
				label += ": " + strings.Join(f.Values, ", ")
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", f.Name, f.Kind, label, f.Help)
		}
	}
	rows(newMetrics("1.2.3", func(telemetry.SetGauge) {}).Families())
	b.WriteString("\nA counter's label may also be `other`: a value that this version does not know. Besides these there are Go's own (`go_*`) and those of\nthe process (`process_*`).\n")
	b.WriteString(`
## Of an agent

An agent answers at GET /metrics of its local socket (root and the agent's own user), and of ` + "`metrics`" + ` in agent.hcl: plain HTTP, "none" unless
you write an address. That port has /healthz, too: 200 when every step of the agent stands, 503 with the one that does not.

| metric | kind | label | |
|---|---|---|---|
`)
	of := telemetry.NewMetrics("1.2.3")
	of.Gauges(func(telemetry.SetGauge) {}, agent.MetricFamilies()...)
	rows(of.Families())
	path := filepath.Join("..", "docs", "reference", "metrics.md")
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil || string(got) != b.String() {
		t.Errorf("%s is out of date: go test ./server -run Reference -update (%v)", path, err)
	}
}
