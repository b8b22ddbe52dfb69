package xds

import (
	"net/netip"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	httpinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/http_inspector/v3"
	rawv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/raw_buffer/v3"

	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/plan"
	"github.com/kerege/kerege/xds/delta"
)

// directName is of the cluster that goes where a connection was going.
func directName(service mesh.ServiceName, port uint16, in bool) string {
	name := "direct/" + clusterName(service, port)
	if !in {
		name += "/plaintext"
	}
	return name
}

// direct is what lets callers dial a port's instances at their own addresses:
// for each a listener of its own, without a socket, so that an instance that
// comes or goes touches no other's connections; and a cluster for all of them.
func (w *writer) direct(u *plan.Upstream, p *plan.UpstreamPort) []*delta.Resource {
	var out []*delta.Resource
	var in, bare bool
	for _, d := range p.Direct {
		in, bare = in || d.In, bare || !d.In && !d.Held
		l := w.directListener(u.Service, p, d)
		out = append(out, w.resource(l.Name, l, mesh.Key{Kind: mesh.KindInstances, Name: string(u.Service)}))
	}
	for _, c := range p.Clusters {
		if c.Name != clusterName(u.Service, p.Number) {
			continue
		}
		if in {
			alpn := alpnHTTP
			if isTCP(p.Protocol) {
				alpn = alpnTCP
			}
			made := w.directCluster(directName(u.Service, p.Number, true), c, w.upstreamTLS(c.Identity, c.Port, alpn))
			out = append(out, w.resource(made.Name, made, c.Cause))
		}
		if bare {
			made := w.directCluster(directName(u.Service, p.Number, false), c, w.socket(&rawv3.RawBuffer{}))
			out = append(out, w.resource(made.Name, made, c.Cause))
		}
	}
	return out
}

func (w *writer) directCluster(name string, c *plan.Cluster, socket *corev3.TransportSocket) *clusterv3.Cluster {
	out := w.local(name, nil)
	out.ConnectTimeout = dur(orElse(c.Connect, mesh.DefaultConnect))
	out.CircuitBreakers = breakers(c)
	out.TransportSocket = socket
	out.UpstreamBindConfig = &corev3.BindConfig{SocketOptions: []*corev3.SocketOption{userTimeout()}}
	return out
}

// directListener hands a connection on as it is: the destination's Envoy knows
// its caller by the certificate and judges what it says.
func (w *writer) directListener(service mesh.ServiceName, p *plan.UpstreamPort, d plan.Direct) *listenerv3.Listener {
	at := []*corev3.Address{addressOf(d.Addr)}
	stat := directName(service, p.Number, true)
	tcp := &listenerv3.FilterChain{Name: "tcp", FilterChainMatch: &listenerv3.FilterChainMatch{},
		Filters: []*listenerv3.Filter{w.tcpProxy(stat, directName(service, p.Number, d.In), p.Idle)}}
	chains := []*listenerv3.FilterChain{tcp}
	switch {
	case d.Held && isTCP(p.Protocol):
		tcp.Filters = nil // closed
	case d.Held:
		chains = []*listenerv3.FilterChain{w.refusal("held", 503, heldBack(service, d.Addr))}
	case d.In && p.Protocol == mesh.ProtocolUnknown:
		http := &listenerv3.FilterChain{Name: "http", Filters: tcp.Filters,
			FilterChainMatch: &listenerv3.FilterChainMatch{ApplicationProtocols: []string{"http/1.0", "http/1.1", "h2c"}}}
		tcp.Filters = append([]*listenerv3.Filter{w.notHTTP()}, tcp.Filters...)
		chains = []*listenerv3.FilterChain{http, tcp}
	}
	out := listener("direct/"+d.Addr.String(), at, chains...)
	out.StatPrefix = stat
	out.BindToPort = no()
	if len(chains) > 1 {
		out.ListenerFilters = []*listenerv3.ListenerFilter{w.listenerFilter("http_inspector", &httpinspectorv3.HttpInspector{})}
		out.ListenerFiltersTimeout = dur(detectWithin)
		out.ContinueOnListenerFiltersTimeout = true
	}
	return out
}

func heldBack(service mesh.ServiceName, at netip.AddrPort) string {
	return "kerege: the instance " + at.String() + " of " + escape(string(service)) + " is held back: no caller is let to it.\n" +
		"Which instances are held, and why: kerege services\n"
}
