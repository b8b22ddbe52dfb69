package server

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/kerege/kerege/agent"
	"github.com/kerege/kerege/telemetry"
)

// TestPrometheusExample holds the names and labels of the example's alerts against
// what server and agent declare, and its alerts against docs/operations.md.
func TestPrometheusExample(t *testing.T) {
	rules, err := os.ReadFile("../examples/prometheus/kerege.rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	of := telemetry.NewMetrics("1.2.3")
	of.Gauges(func(telemetry.SetGauge) {}, agent.MetricFamilies()...)
	families := append(newMetrics("1.2.3", func(telemetry.SetGauge) {}).Families(), of.Families()...)
	selected := regexp.MustCompile(`\b(kerege_\w+)(?:\{(\w+)="(\w+)"\})?`)
	exprs := 0
	for line := range strings.Lines(string(rules)) {
		expr, is := strings.CutPrefix(strings.TrimSpace(line), "expr: ")
		if !is {
			continue
		}
		exprs++
		for _, m := range selected.FindAllStringSubmatch(expr, -1) {
			at := slices.IndexFunc(families, func(f telemetry.Family) bool { return f.Name == m[1] })
			if at < 0 {
				t.Errorf("nobody declares %s", m[1])
			} else if f := families[at]; m[2] != "" && (f.Label != m[2] || !slices.Contains(f.Values, m[3])) {
				t.Errorf("%s has no %s=%q: its label is %q of %q", m[1], m[2], m[3], f.Label, f.Values)
			}
		}
	}
	alerts := regexp.MustCompile(`alert: (\w+)`).FindAllStringSubmatch(string(rules), -1)
	if len(alerts) == 0 || len(alerts) != exprs {
		t.Errorf("%d alerts with %d expressions", len(alerts), exprs)
	}
	for _, a := range alerts {
		if !strings.Contains(string(page), fmt.Sprintf("`%s`", a[1])) {
			t.Errorf("docs/operations.md does not say what %s means", a[1])
		}
	}
	for _, m := range regexp.MustCompile("`(Kerege\\w+)`").FindAllStringSubmatch(string(page), -1) {
		if !strings.Contains(string(rules), "alert: "+m[1]+"\n") {
			t.Errorf("docs/operations.md names %s, which is no alert", m[1])
		}
	}
}
