package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/kerege/kerege/agent/dns"
	"github.com/kerege/kerege/telemetry"
)

// MetricFamilies declares what an agent says of itself. All of it is read off the
// agent's state when somebody asks.
func MetricFamilies() []telemetry.Family {
	return []telemetry.Family{
		{Name: "kerege_agent_up", Help: "1 when every step of the agent stands; `kerege agent status` on the host names the one that does not."},
		{Name: "kerege_agent_workloads", Label: "state", Values: []string{"in", "joining", "held", "left"},
			Help: "Workloads of this host: in the mesh (in), on their way (joining), kept out with a reason (held), taken out by hand (left)."},
		{Name: "kerege_agent_proxies", Label: "source", Values: []string{"live", "disk", "none"},
			Help: "Proxies by where their configuration is from: a server (live), what was last accepted (disk), nowhere yet (none)."},
		{Name: "kerege_agent_proxies_ready", Help: "Proxies whose Envoy has accepted its listeners."},
		{Name: "kerege_agent_envoys", Help: "Connected Envoys; two of one proxy during its hot restart."},
		{Name: "kerege_agent_certificate_expiry_timestamp_seconds", Help: "When the first of this host's certificates expires, in Unix time; absent before there is one."},
		{Name: "kerege_agent_server_connected", Help: "1 when a server's node stream is open."},
		{Name: "kerege_agent_server_age_seconds", Help: "Time since a server last spoke, 0 while connected; absent when none ever has."},
		{Name: "kerege_agent_names", Help: "Mesh names that this host answers."},
		{Name: "kerege_agent_capture_applied", Help: "1 when a capture is on record."},
		{Name: "kerege_agent_capture_settled", Help: "1 when the packet filter was as it should be when last looked at."},
		{Name: "kerege_agent_capture_overtaken", Help: "Rules of other programs that stand before kerege's in the packet filter, may take the workloads' traffic, and were put back each time: `kerege capture status` names them."},
		{Name: "kerege_agent_capture_repairs_total", Kind: telemetry.KindCounter, Help: "Times that the packet filter was not as it should be, and was mended."},
		{Name: "kerege_agent_dns_answers_total", Kind: telemetry.KindCounter, Label: "from", Values: []string{"mesh", "upstream", "failed"},
			Help: "DNS answers: of the mesh's names (mesh), of the host's own resolvers (upstream), and SERVFAIL of either (failed)."},
		{Name: "kerege_agent_connections_open", Help: "Inbound connections that would be cut if their caller lost its right: those of TCP, and those of HTTP on which a call has run for a quarter of a second."},
		{Name: "kerege_agent_connections_lost_right_total", Kind: telemetry.KindCounter, Label: "result", Values: []string{"cut", "failed"},
			Help: "Inbound connections whose caller lost its right: ended (cut), or still open, for the kernel did not do it (failed); the log says why."},
		{Name: "kerege_agent_connections_unwatched_total", Kind: telemetry.KindCounter,
			Help: "Inbound connections and calls that are not watched, for a proxy has too many: they outlive their caller's right."},
	}
}

// newMetrics makes the metrics of this agent.
func (a *Agent) newMetrics() *telemetry.Metrics {
	m := telemetry.NewMetrics(a.opt.Version)
	m.Gauges(a.readMetrics, MetricFamilies()...)
	return m
}

func (a *Agent) readMetrics(set telemetry.SetGauge) {
	st := a.Status()
	up := number(len(st.Steps) > 0)
	for _, s := range st.Steps {
		up *= number(s.State == "up")
	}
	set("kerege_agent_up", "", up)
	states, sources := map[string]int{"in": 0, "joining": 0, "held": 0, "left": 0}, map[string]int{"live": 0, "disk": 0, "none": 0}
	envoys, ready := 0, 0
	for _, w := range st.Workloads {
		states[w.State]++
		if w.Proxy.ID == "" {
			continue
		}
		sources[w.Proxy.Source]++
		envoys += w.Proxy.Envoys
		if w.Proxy.Ready {
			ready++
		}
	}
	for state, n := range states {
		set("kerege_agent_workloads", state, float64(n))
	}
	for source, n := range sources {
		set("kerege_agent_proxies", source, float64(n))
	}
	set("kerege_agent_envoys", "", float64(envoys))
	set("kerege_agent_proxies_ready", "", float64(ready))
	var first time.Time
	for _, s := range a.id.Status() {
		if !s.NotAfter.IsZero() && (first.IsZero() || s.NotAfter.Before(first)) {
			first = s.NotAfter
		}
	}
	if !first.IsZero() {
		set("kerege_agent_certificate_expiry_timestamp_seconds", "", float64(first.Unix()))
	}
	set("kerege_agent_server_connected", "", number(st.Servers.Connected))
	if !st.Servers.Heard.IsZero() {
		set("kerege_agent_server_age_seconds", "", st.Servers.AgeSeconds)
	}
	set("kerege_agent_names", "", float64(st.Names))
	a.readOpen(set)
	a.readCapture(set)
}

// readOpen adds up what became of connections, at proxies that are no more, too.
func (a *Agent) readOpen(set telemetry.SetGauge) {
	a.mu.Lock()
	sum := a.cutBefore
	for _, r := range a.proxies {
		sum = sum.Add(r.open.Counts())
	}
	a.mu.Unlock()
	set("kerege_agent_connections_open", "", float64(sum.Open))
	set("kerege_agent_connections_lost_right_total", "cut", float64(sum.Cut))
	set("kerege_agent_connections_lost_right_total", "failed", float64(sum.Failed))
	set("kerege_agent_connections_unwatched_total", "", float64(sum.Unwatched))
}

func (a *Agent) readCapture(set telemetry.SetGauge) {
	var applied, settled bool
	var repairs int64
	overtaken := 0
	if a.cap != nil {
		overtaken = a.cap.Overtaken()
		applied, settled = a.cap.Brief()
		repairs = a.cap.Repairs()
	}
	set("kerege_agent_capture_applied", "", number(applied))
	set("kerege_agent_capture_settled", "", number(settled))
	set("kerege_agent_capture_overtaken", "", float64(overtaken))
	set("kerege_agent_capture_repairs_total", "", float64(repairs))
	var answers dns.Answers
	a.mu.Lock()
	if a.resolver != nil {
		answers = a.resolver.Answers()
	}
	a.mu.Unlock()
	set("kerege_agent_dns_answers_total", "mesh", float64(answers.Mesh))
	set("kerege_agent_dns_answers_total", "upstream", float64(answers.Upstream))
	set("kerege_agent_dns_answers_total", "failed", float64(answers.Failed))
}

func number(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

// listenMetrics opens the plain port of /metrics and /healthz, where the settings
// ask for one.
func (a *Agent) listenMetrics() (stop func(), err error) {
	if a.cfg.Metrics == "" || a.cfg.Metrics == "none" {
		return func() {}, nil
	}
	l, err := net.Listen("tcp", a.cfg.Metrics)
	if err != nil {
		return nil, fmt.Errorf("listening for metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", a.metrics.Handler())
	mux.HandleFunc("GET /healthz", a.healthz)
	server := &http.Server{Handler: mux, ReadTimeout: 10 * time.Second, WriteTimeout: 30 * time.Second, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
			a.log.Error("the agent's metrics ended", "error", err)
		}
	})
	return func() {
		down, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if server.Shutdown(down) != nil {
			server.Close()
		}
		wg.Wait()
	}, nil
}

// healthz is 200 when every step stands, else it names the one that does not.
func (a *Agent) healthz(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("content-type", "text/plain; charset=utf-8")
	for _, s := range a.Status().Steps {
		if s.State != "up" {
			w.WriteHeader(http.StatusServiceUnavailable)
			fmt.Fprintf(w, "step %s: %s\n", s.Name, s.State)
			return
		}
	}
	fmt.Fprintln(w, "ok")
}
