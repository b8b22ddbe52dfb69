package telemetry

import (
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Kind is what a metric's numbers mean.
type Kind string

const (
	KindCounter   Kind = "counter"
	KindGauge     Kind = "gauge"
	KindHistogram Kind = "histogram"
)

// Family declares a metric before its first number: so that the reference can
// be written from it, and no label has a value that nobody thought of.
type Family struct {
	Name, Help string
	Kind       Kind
	Label      string    // "": none
	Values     []string  // all that Label may be; nil: what the settings name, 64 at most
	Buckets    []float64 // of a histogram, ascending
}

// other stands for every value of a counter's label that was not declared.
const other = "other"

// maxValues bounds a label whose values the settings name.
const maxValues = 64

// Metrics are the metrics of one process or server. Safe for concurrent use.
type Metrics struct {
	registry *prometheus.Registry

	mu       sync.Mutex
	families []Family
}

// NewMetrics returns metrics that say the build, and what every Go process says of itself.
func NewMetrics(version string) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry()}
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	build := Family{Name: "kerege_build_info", Help: "Always 1; its label says which version runs.", Kind: KindGauge, Label: "version"}
	m.Gauges(func(set SetGauge) { set(build.Name, version, 1) }, build)
	return m
}

// Families lists what was declared, sorted by name.
func (m *Metrics) Families() []Family {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := slices.Clone(m.families)
	slices.SortFunc(list, func(a, b Family) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	return list
}

func (m *Metrics) declare(f ...Family) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.families = append(m.families, f...)
}

// Counter only grows. Every declared value of its label is there from the start, at 0.
type Counter struct{ by map[string]prometheus.Counter }

// Counter declares a counter. Its label, where it has one, needs Values.
func (m *Metrics) Counter(f Family) *Counter {
	f.Kind = KindCounter
	m.declare(f)
	c := &Counter{by: map[string]prometheus.Counter{}}
	if f.Label == "" {
		one := prometheus.NewCounter(prometheus.CounterOpts{Name: f.Name, Help: f.Help})
		m.registry.MustRegister(one)
		c.by[""], c.by[other] = one, one
		return c
	}
	vec := prometheus.NewCounterVec(prometheus.CounterOpts{Name: f.Name, Help: f.Help}, []string{f.Label})
	m.registry.MustRegister(vec)
	for _, v := range append(slices.Clone(f.Values), other) {
		c.by[v] = vec.WithLabelValues(v)
	}
	return c
}

// Add adds n to a label's value; one that was not declared counts as "other".
func (c *Counter) Add(value string, n float64) {
	one := c.by[value]
	if one == nil {
		one = c.by[other]
	}
	one.Add(n)
}

// Histogram counts durations by size.
type Histogram struct{ of prometheus.Histogram }

// Histogram declares a histogram without labels.
func (m *Metrics) Histogram(f Family) *Histogram {
	f.Kind = KindHistogram
	m.declare(f)
	h := prometheus.NewHistogram(prometheus.HistogramOpts{Name: f.Name, Help: f.Help, Buckets: f.Buckets})
	m.registry.MustRegister(h)
	return &Histogram{of: h}
}

// Observe counts one duration.
func (h *Histogram) Observe(d time.Duration) { h.of.Observe(d.Seconds()) }

// SetGauge gives a declared gauge its number; value is its label's, "" without one.
type SetGauge func(name, value string, n float64)

// Gauges declares gauges that are read when somebody asks: read is called once a
// scrape, by one goroutine at a time, and must be quick. A family of KindCounter is
// read the same way: its numbers are a count that somebody else keeps.
func (m *Metrics) Gauges(read func(SetGauge), families ...Family) {
	g := &gauges{read: read, family: map[string]Family{}, desc: map[string]*prometheus.Desc{}}
	for i := range families {
		if families[i].Kind != KindCounter {
			families[i].Kind = KindGauge
		}
		f := families[i]
		var labels []string
		if f.Label != "" {
			labels = []string{f.Label}
		}
		g.family[f.Name], g.desc[f.Name] = f, prometheus.NewDesc(f.Name, f.Help, labels, nil)
	}
	m.declare(families...)
	m.registry.MustRegister(g)
}

type gauges struct {
	family map[string]Family
	desc   map[string]*prometheus.Desc

	mu   sync.Mutex
	read func(SetGauge)
}

func (g *gauges) Describe(out chan<- *prometheus.Desc) {
	for _, d := range g.desc {
		out <- d
	}
}

func (g *gauges) Collect(out chan<- prometheus.Metric) {
	g.mu.Lock()
	defer g.mu.Unlock()
	values := map[string]int{}
	g.read(func(name, value string, n float64) {
		f, known := g.family[name]
		if !known || f.Values != nil && !slices.Contains(f.Values, value) || values[name] == maxValues {
			return
		}
		values[name]++
		kind := prometheus.GaugeValue
		if f.Kind == KindCounter {
			kind = prometheus.CounterValue
		}
		if f.Label == "" {
			out <- prometheus.MustNewConstMetric(g.desc[name], kind, n)
			return
		}
		out <- prometheus.MustNewConstMetric(g.desc[name], kind, n, value)
	})
}

// Handler answers with the metrics in Prometheus's text format, two scrapes at once.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 2, Timeout: 10 * time.Second})
}
