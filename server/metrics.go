package server

import (
	"context"
	"strings"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	keregev1 "github.com/kerege/kerege/api/kerege/v1"
	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/telemetry"
	"github.com/kerege/kerege/xds/delta"
)

// metrics is what a server counts as it goes, and the gauges that a scrape reads
// off its state. It is the serve.Metrics of the ADS server.
type metrics struct {
	*telemetry.Metrics
	streams atomic.Int64

	pushes, bytes, nacks, refused *telemetry.Counter
	joins, signatures             *telemetry.Counter
	convergence                   *telemetry.Histogram
}

// newMetrics declares everything; read gives the gauges their numbers.
func newMetrics(version string, read func(telemetry.SetGauge)) *metrics {
	m := &metrics{Metrics: telemetry.NewMetrics(version)}
	counter := func(name, label string, values []string, help string) *telemetry.Counter {
		return m.Counter(telemetry.Family{Name: name, Help: help, Label: label, Values: values})
	}
	m.pushes = counter("kerege_xds_pushes_total", "type", typeWords(), "Resources sent to proxies.")
	m.bytes = counter("kerege_xds_sent_bytes_total", "type", typeWords(), "Bytes of xDS messages sent to proxies, before gRPC's and TLS's own.")
	m.nacks = counter("kerege_xds_nacks_total", "type", typeWords(), "Messages that a proxy refused; `kerege proxies` says which resource and why.")
	m.refused = counter("kerege_xds_refused_streams_total", "reason", []string{"pending", "node", "identity"},
		"Streams refused: too many proxies, of all or of one node, wait for their first configuration (pending), no node id (node), not the caller's proxy (identity).")
	m.joins = counter("kerege_joins_total", "result", results, "Hosts that asked to join.")
	m.signatures = counter("kerege_signatures_total", "result", results, "Certificates that nodes asked for, for themselves and their services; joins are not in it.")
	m.convergence = m.Histogram(telemetry.Family{Name: "kerege_convergence_seconds",
		Help:    "From a snapshot of the mesh until a proxy whose configuration it changes has accepted all it should have: once for each such proxy. Proxies that refuse or leave are not in it.",
		Buckets: []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}})
	m.Gauges(func(set telemetry.SetGauge) {
		set("kerege_xds_streams", "", float64(m.streams.Load()))
		read(set)
	}, gaugeFamilies()...)
	return m
}

func gaugeFamilies() []telemetry.Family {
	return []telemetry.Family{
		{Name: "kerege_xds_streams", Help: "Open xDS streams, those that wait for their first configuration included."},
		{Name: "kerege_proxies", Label: "state", Values: []string{"synced", "stale", "nacked"},
			Help: "Connected proxies that have accepted all they should have (synced), not yet (stale), or refused something (nacked)."},
		{Name: "kerege_nodes", Label: "state", Values: []string{"connected", "away"}, Help: "Hosts of the mesh whose agent is connected to this server, and those whose is not."},
		{Name: "kerege_services", Help: "Services that the mesh knows."},
		{Name: "kerege_endpoints", Label: "state", Values: []string{"in", "held", "plaintext", "unhealthy"},
			Help: "Instances that callers reach by mTLS (in), without (plaintext), that are failing or draining (unhealthy), or that a strict service keeps from its callers because their host is not in the mesh (held)."},
		{Name: "kerege_config_generation", Help: "Number of the mesh files' generation that is in force."},
		{Name: "kerege_config_valid", Help: "1 when the mesh files last read are in force, 0 when they were refused and the generation before goes on."},
		{Name: "kerege_source_ok", Label: "source", Help: "1 when the source's last answer was whole."},
		{Name: "kerege_source_age_seconds", Label: "source", Help: "Time since the source's last whole answer; absent before the first."},
		{Name: "kerege_guard_holds", Help: "Sudden losses that the shrink guard keeps back; `kerege status` names them."},
		{Name: "kerege_ca_root_expiry_timestamp_seconds", Help: "When the active root certificate expires, in Unix time."},
		{Name: "kerege_ca_intermediate_expiry_timestamp_seconds", Help: "When this server's own CA certificate expires, in Unix time."},
	}
}

// readGauges reads a server's state for a scrape.
func (s *Server) readGauges(set telemetry.SetGauge) {
	counts := s.ads.Counts()
	set("kerege_proxies", "synced", float64(counts[delta.Synced]))
	set("kerege_proxies", "stale", float64(counts[delta.Stale]))
	set("kerege_proxies", "nacked", float64(counts[delta.Nacked]))
	connected, away := 0, 0
	for _, n := range s.nodeStatus() {
		switch {
		case n.Connected:
			connected++
		case n.State != nodeLeft:
			away++
		}
	}
	set("kerege_nodes", "connected", float64(connected))
	set("kerege_nodes", "away", float64(away))
	snap := s.hub.Snapshot()
	set("kerege_services", "", float64(len(snap.Services())))
	for state, n := range s.tally.of(snap) {
		set("kerege_endpoints", state, float64(n))
	}
	gen, _ := s.files.Current()
	set("kerege_config_generation", "", float64(gen.Counter))
	set("kerege_config_valid", "", number(s.files.Report().State == mesh.SourceOK))
	for _, src := range s.hub.Status() {
		set("kerege_source_ok", src.Name, number(src.State == mesh.SourceOK))
		if src.Age >= 0 {
			set("kerege_source_age_seconds", src.Name, src.Age.Seconds())
		}
	}
	set("kerege_guard_holds", "", float64(len(s.hub.Guard())))
	ca := s.ca.Status()
	set("kerege_ca_root_expiry_timestamp_seconds", "", float64(ca.RootExpires.Unix()))
	set("kerege_ca_intermediate_expiry_timestamp_seconds", "", float64(ca.IntermediateExpires.Unix()))
}

func number(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

// tally keeps the last snapshot's endpoints counted: a scrape of a mesh in which
// nothing happened costs nothing.
type tally struct {
	mu    sync.Mutex
	snap  *mesh.Snapshot
	count map[string]int
}

func (t *tally) of(snap *mesh.Snapshot) map[string]int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.snap == snap {
		return t.count
	}
	t.snap, t.count = snap, map[string]int{"in": 0, "held": 0, "plaintext": 0, "unhealthy": 0}
	for _, name := range snap.Services() {
		svc := snap.Service(name)
		for _, in := range snap.Instances(name) {
			t.count[endpointState(svc, in)]++
		}
	}
	return t.count
}

func endpointState(svc *mesh.Service, in *mesh.Instance) string {
	switch {
	case !in.In && heldReason(svc, in) != "":
		return "held"
	case in.Health != mesh.Healthy && in.Health != mesh.Warning:
		return "unhealthy"
	case in.In && svc.MTLS != mesh.MTLSDisabled:
		return "in"
	}
	return "plaintext"
}

// StreamOpened counts a stream that was admitted.
func (m *metrics) StreamOpened() { m.streams.Add(1) }

// StreamClosed counts its end.
func (m *metrics) StreamClosed() { m.streams.Add(-1) }

// StreamRefused counts a stream that was not let in.
func (m *metrics) StreamRefused(reason string) { m.refused.Add(reason, 1) }

// Sent counts a message to a proxy.
func (m *metrics) Sent(typ string, resources, bytes int) {
	m.pushes.Add(typeWord(typ), float64(resources))
	m.bytes.Add(typeWord(typ), float64(bytes))
}

// Answered counts a proxy's answer to a message.
func (m *metrics) Answered(typ string, nack bool) {
	if nack {
		m.nacks.Add(typeWord(typ), 1)
	}
}

// typeWord is a type as operators say it: cluster, endpoint, listener, …
func typeWord(url string) string {
	switch url {
	case delta.TypeEndpoints:
		return "endpoint"
	case delta.TypeRoute:
		return "route"
	case delta.TypeExtension:
		return "extension"
	}
	return strings.ToLower(shortType(url))
}

func typeWords() []string {
	return []string{"secret", "cluster", "endpoint", "listener", "route", "extension"}
}

// results are what becomes of a node's request.
var results = []string{"ok", "refused", "invalid", "busy", "error"}

func resultOf(err error) string {
	switch status.Code(err) {
	case codes.OK:
		return "ok"
	case codes.PermissionDenied, codes.Unauthenticated:
		return "refused"
	case codes.InvalidArgument, codes.FailedPrecondition:
		return "invalid"
	case codes.ResourceExhausted:
		return "busy"
	}
	return "error"
}

// unary counts what becomes of joins and signatures, whoever answers them.
func (m *metrics) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, answer grpc.UnaryHandler) (any, error) {
	out, err := answer(ctx, req)
	switch info.FullMethod {
	case keregev1.Join_Join_FullMethodName:
		m.joins.Add(resultOf(err), 1)
	case keregev1.Sign_Sign_FullMethodName:
		m.signatures.Add(resultOf(err), 1)
	}
	return out, err
}
