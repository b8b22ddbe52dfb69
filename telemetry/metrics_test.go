package telemetry

import (
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"
)

func scrape(t *testing.T, m *Metrics) string {
	t.Helper()
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != 200 {
		t.Fatalf("status %d: %s", w.Code, w.Body)
	}
	return w.Body.String()
}

// sample is a series' number as text; "" when it is not there.
func sample(text, series string) string {
	for line := range strings.Lines(text) {
		if number, is := strings.CutPrefix(line, series+" "); is {
			return strings.TrimSpace(number)
		}
	}
	return ""
}

func TestMetricsOfTwoServersAreApart(t *testing.T) {
	a, b := NewMetrics("1.0.0"), NewMetrics("2.0.0")
	count := func(m *Metrics) *Counter {
		return m.Counter(Family{Name: "kerege_things_total", Help: "Things.", Label: "kind", Values: []string{"good", "bad"}})
	}
	one, _ := count(a), count(b)
	one.Add("good", 2)
	one.Add("never heard of", 1)
	one.Add("nor of this", 1)
	for _, c := range []struct {
		m            *Metrics
		series, want string
	}{
		{a, `kerege_things_total{kind="good"}`, "2"},
		{a, `kerege_things_total{kind="bad"}`, "0"},
		{a, `kerege_things_total{kind="other"}`, "2"},
		{b, `kerege_things_total{kind="good"}`, "0"},
		{a, `kerege_build_info{version="1.0.0"}`, "1"},
		{b, `kerege_build_info{version="2.0.0"}`, "1"},
	} {
		if got := sample(scrape(t, c.m), c.series); got != c.want {
			t.Errorf("%s is %q, want %q", c.series, got, c.want)
		}
	}
	if got := scrape(t, a); strings.Contains(got, "never heard of") || !strings.Contains(got, "# HELP kerege_things_total Things.") {
		t.Errorf("an undeclared value is a label, or there is no help:\n%s", got)
	}
}

func TestGaugesAreReadAtTheScrapeAndBounded(t *testing.T) {
	m, reads := NewMetrics("1"), 0
	m.Gauges(func(set SetGauge) {
		reads++
		set("kerege_level", "", float64(reads))
		set("kerege_state", "up", 1)
		set("kerege_state", "sideways", 1)
		set("kerege_nobody_declared", "", 1)
		for i := range 1000 {
			set("kerege_source", fmt.Sprint(i), 1)
		}
	}, Family{Name: "kerege_level", Help: "."}, Family{Name: "kerege_state", Help: ".", Label: "state", Values: []string{"up", "down"}},
		Family{Name: "kerege_source", Help: ".", Label: "source"})
	first := scrape(t, m)
	if got := sample(first, "kerege_level"); got != "1" {
		t.Errorf("level is %q after one scrape", got)
	}
	if got := sample(scrape(t, m), "kerege_level"); got != "2" {
		t.Errorf("level is %q after two scrapes", got)
	}
	if n := strings.Count(first, "kerege_source{"); n != maxValues {
		t.Errorf("%d series of a label that the settings name, want %d", n, maxValues)
	}
	if strings.Contains(first, "sideways") || strings.Contains(first, "nobody") {
		t.Error("what was not declared is there")
	}
}

func TestHistogramIsInSeconds(t *testing.T) {
	m := NewMetrics("1")
	h := m.Histogram(Family{Name: "kerege_wait_seconds", Help: "Waits.", Buckets: []float64{.1, 1}})
	h.Observe(50 * time.Millisecond)
	h.Observe(500 * time.Millisecond)
	text := scrape(t, m)
	for series, want := range map[string]string{
		`kerege_wait_seconds_bucket{le="0.1"}`: "1", `kerege_wait_seconds_bucket{le="1"}`: "2", "kerege_wait_seconds_count": "2", "kerege_wait_seconds_sum": "0.55",
	} {
		if got := sample(text, series); got != want {
			t.Errorf("%s is %q, want %q", series, got, want)
		}
	}
}
