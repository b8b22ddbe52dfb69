package xds

import (
	"fmt"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	httpinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/http_inspector/v3"
	originaldstv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_dst/v3"
	tlsinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/tls_inspector/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"

	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/plan"
)

const inboundName = "inbound"

func appCluster(in *plan.Inbound) string { return fmt.Sprintf("inbound/%d", in.Number) }

func isTCP(p mesh.Protocol) bool { return p == mesh.ProtocolTCP || p == mesh.ProtocolTLS }

// inbound is where captured connections to the workload arrive. Each port that it
// serves has its chains; every other port is closed.
func (w *writer) inbound(p *plan.Proxy) *listenerv3.Listener {
	at := []*corev3.Address{address("0.0.0.0", p.Node.InboundPort)}
	if !p.Node.NoIPv6 {
		at = append(at, address("::", p.Node.InboundPort))
	}
	var chains []*listenerv3.FilterChain
	var secured, sniffed []uint32
	for _, in := range p.Inbound {
		port := uint32(in.Number)
		for _, c := range append(w.inboundChains(in), w.checkChains(p, in)...) {
			c.Name = fmt.Sprintf("%d/%s", port, c.Name)
			c.FilterChainMatch.DestinationPort = u32(port)
			chains = append(chains, c)
		}
		if in.MTLS != mesh.MTLSDisabled {
			secured = append(secured, port)
		}
		if sniffs(in) {
			sniffed = append(sniffed, port)
		}
	}
	out := listener(inboundName, at, chains...)
	out.TrafficDirection = corev3.TrafficDirection_INBOUND
	out.ListenerFilters = append(
		[]*listenerv3.ListenerFilter{w.listenerFilter("original_dst", &originaldstv3.OriginalDst{})},
		w.inspectors(secured, sniffed)...)
	w.detect(out, p.Inbound)
	if len(chains) == 0 {
		// Envoy refuses a listener without a chain: this one takes nothing and closes.
		out.DefaultFilterChain = &listenerv3.FilterChain{Name: "closed"}
	}
	return out
}

// acceptListener is one port of a workload whose traffic is not captured.
func (w *writer) acceptListener(in *plan.Inbound, at *corev3.Address) *listenerv3.Listener {
	out := listener(appCluster(in), []*corev3.Address{at}, w.inboundChains(in)...)
	out.TrafficDirection = corev3.TrafficDirection_INBOUND
	if in.MTLS != mesh.MTLSDisabled {
		out.ListenerFilters = append(out.ListenerFilters, w.listenerFilter("tls_inspector", &tlsinspectorv3.TlsInspector{}))
	}
	if sniffs(in) {
		out.ListenerFilters = append(out.ListenerFilters, w.listenerFilter("http_inspector", &httpinspectorv3.HttpInspector{}))
	}
	w.detect(out, []*plan.Inbound{in})
	return out
}

// plaintextHTTP is what http_inspector calls it.
var plaintextHTTP = []string{"http/1.0", "http/1.1", "h2c"}

// sniffs says whether plaintext on a port may be HTTP or not.
func sniffs(in *plan.Inbound) bool {
	return in.Protocol == mesh.ProtocolUnknown && in.MTLS != mesh.MTLSStrict && in.MTLS != mesh.MTLSUnset
}

// detect bounds how long a connection may be silent before its first bytes. A
// plaintext port must go on without them: its server may speak first.
func (w *writer) detect(l *listenerv3.Listener, ins []*plan.Inbound) {
	l.ListenerFiltersTimeout = dur(10 * time.Second)
	for _, in := range ins {
		if in.MTLS == mesh.MTLSPermissive || in.MTLS == mesh.MTLSDisabled {
			l.ListenerFiltersTimeout = dur(detectWithin)
			l.ContinueOnListenerFiltersTimeout = true
		}
	}
}

// inspectors look at first bytes, only on ports where that decides something.
func (w *writer) inspectors(secured, sniffed []uint32) []*listenerv3.ListenerFilter {
	var out []*listenerv3.ListenerFilter
	if len(secured) > 0 {
		f := w.listenerFilter("tls_inspector", &tlsinspectorv3.TlsInspector{})
		f.FilterDisabled = otherThan(secured)
		out = append(out, f)
	}
	if len(sniffed) > 0 {
		f := w.listenerFilter("http_inspector", &httpinspectorv3.HttpInspector{})
		f.FilterDisabled = otherThan(sniffed)
		out = append(out, f)
	}
	return out
}

func otherThan(ports []uint32) *listenerv3.ListenerFilterChainMatchPredicate {
	rules := make([]*listenerv3.ListenerFilterChainMatchPredicate, len(ports))
	for i, p := range ports {
		rules[i] = &listenerv3.ListenerFilterChainMatchPredicate{Rule: &listenerv3.ListenerFilterChainMatchPredicate_DestinationPortRange{
			DestinationPortRange: &typev3.Int32Range{Start: int32(p), End: int32(p) + 1},
		}}
	}
	one := rules[0]
	if len(rules) > 1 {
		one = &listenerv3.ListenerFilterChainMatchPredicate{Rule: &listenerv3.ListenerFilterChainMatchPredicate_OrMatch{
			OrMatch: &listenerv3.ListenerFilterChainMatchPredicate_MatchSet{Rules: rules},
		}}
	}
	return &listenerv3.ListenerFilterChainMatchPredicate{Rule: &listenerv3.ListenerFilterChainMatchPredicate_NotMatch{NotMatch: one}}
}

// inboundChains are the ways into one port: by mTLS, told apart by ALPN, and in
// plaintext where the port's owner says so.
func (w *writer) inboundChains(in *plan.Inbound) []*listenerv3.FilterChain {
	http := in.Protocol == mesh.ProtocolUnknown || !isTCP(in.Protocol)
	tcp := in.Protocol == mesh.ProtocolUnknown || isTCP(in.Protocol)
	var out []*listenerv3.FilterChain
	if in.MTLS != mesh.MTLSDisabled {
		if http {
			out = append(out, w.secured(w.inboundHTTP(in, true), alpnHTTP, w.inboundTLS(in.Policy.TrustDomain, "")))
		}
		if tcp {
			out = append(out, w.secured(w.inboundTCP(in, true), alpnTCP, w.inboundTLS(in.Policy.TrustDomain, callersName(in.Policy))))
		}
	}
	if in.MTLS != mesh.MTLSPermissive && in.MTLS != mesh.MTLSDisabled {
		return out
	}
	if http {
		plain := w.inboundHTTP(in, false)
		plain.FilterChainMatch.TransportProtocol = "raw_buffer"
		if tcp {
			plain.FilterChainMatch.ApplicationProtocols = plaintextHTTP
		}
		out = append(out, plain)
	}
	// A plaintext connection has no name: it is admitted as a whole or not at all.
	if tcp && in.Policy.Plaintext {
		plain, theirs := w.inboundTCP(in, false), w.inboundTCP(in, false)
		plain.FilterChainMatch.TransportProtocol = "raw_buffer"
		theirs.Name, theirs.FilterChainMatch.TransportProtocol = "their-tls", "tls" // the application's own
		out = append(out, plain, theirs)
	}
	return out
}

func (w *writer) secured(c *listenerv3.FilterChain, alpn string, tls *corev3.TransportSocket) *listenerv3.FilterChain {
	c.FilterChainMatch.TransportProtocol = "tls"
	c.FilterChainMatch.ApplicationProtocols = []string{alpn}
	c.TransportSocket = tls
	c.TransportSocketConnectTimeout = dur(10 * time.Second)
	return c
}

// inboundHTTP judges each request and hands it to the application. Its first routes
// may say otherwise.
func (w *writer) inboundHTTP(in *plan.Inbound, mtls bool, first ...*routev3.Route) *listenerv3.FilterChain {
	name := "http"
	if !mtls {
		name = "plaintext-http"
	}
	m := w.connectionManager("inbound/" + clusterName(in.Service, in.Number))
	routes := &routev3.RouteConfiguration{
		Name:                    name,
		VirtualHosts:            []*routev3.VirtualHost{{Name: name, Domains: []string{"*"}, Routes: append(first, w.appRoutes(in)...)}},
		ValidateClusters:        no(),
		ResponseHeadersToRemove: []string{headerUnreached, headerUnanswered},
	}
	m.LocalReplyConfig = &hcmv3.LocalReplyConfig{Mappers: []*hcmv3.ResponseMapper{{
		Filter: statusIs(403), BodyFormatOverride: plainText(denied(in, mtls)),
	}}}
	m.AccessLog = []*accesslogv3.AccessLog{w.denials(in), w.runningCalls(in.Policy)}
	m.AccessLogOptions = &hcmv3.HttpConnectionManager_HcmAccessLogOptions{AccessLogFlushInterval: dur(callRuns)}
	// A connection outlives its caller's certificate. One that a caller which was sent
	// away holds must not outlive what is known of that; all others see no call fail.
	m.CommonHttpProtocolOptions.MaxConnectionDuration = dur(24 * time.Hour)
	m.Http1SafeMaxConnectionDuration = true
	theirs := []string{"x-envoy-", "x-kerege-"}
	ours := []string{"x-envoy-"}
	if mtls {
		m.StreamIdleTimeout = dur(0) // the caller's sidecar keeps that time, and knows its route
		// It has counted its client's headers, and added some of its own.
		m.CommonHttpProtocolOptions.MaxHeadersCount = u32(120)
		m.LocalReplyConfig.Mappers = append(m.LocalReplyConfig.Mappers,
			marked(headerUnreached, "UF", "UH", "UO"), marked(headerUnanswered, "UC"))
		routes.RequestHeadersToAdd = []*corev3.HeaderValueOption{
			formatted("x-forwarded-client-cert", "URI=%DOWNSTREAM_PEER_URI_SAN%", overwrite),
		}
	} else {
		ours = theirs
	}
	m.RouteSpecifier = &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: routes}
	m.HttpFilters = []*hcmv3.HttpFilter{w.rules(in.Policy), w.strip(theirs, ours), w.router()}
	return w.httpChain(name, m)
}

// marked tells the caller's sidecar how far a request got.
func marked(header string, flags ...string) *hcmv3.ResponseMapper {
	return &hcmv3.ResponseMapper{Filter: flagIs(flags...), HeadersToAdd: []*corev3.HeaderValueOption{literal(header, "1", overwrite)}}
}

func denied(in *plan.Inbound, mtls bool) string {
	who := "a caller without a certificate"
	if mtls {
		who = "%DOWNSTREAM_PEER_URI_SAN%"
	}
	return "kerege: " + who + " may not call this at " + escape(clusterName(in.Service, in.Port)) + ": " +
		"no intention allows it, or one denies it.\nFor who asked what and which rule answered: kerege explain\n"
}

// appRoutes leads to the application, without a limit on its time. Where nobody
// has said what it speaks, it gets what its caller spoke.
func (w *writer) appRoutes(in *plan.Inbound) []*routev3.Route {
	all := &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}}
	to := func(cluster string, m *routev3.RouteMatch) *routev3.Route {
		return &routev3.Route{Match: m, Action: &routev3.Route_Route{Route: &routev3.RouteAction{
			ClusterSpecifier:            &routev3.RouteAction_Cluster{Cluster: cluster},
			Timeout:                     dur(0),
			ClusterNotFoundResponseCode: routev3.RouteAction_SERVICE_UNAVAILABLE,
			// An idle connection that the application has just closed.
			RetryPolicy: &routev3.RetryPolicy{RetryOn: "reset-before-request", NumRetries: u32(1)},
		}}}
	}
	if in.Protocol != mesh.ProtocolUnknown {
		return []*routev3.Route{to(appCluster(in), all)}
	}
	old := &routev3.RouteMatch{
		PathSpecifier: all.PathSpecifier,
		Headers: []*routev3.HeaderMatcher{{Name: headerProtocol, HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{
			StringMatch: prefix("HTTP/1."),
		}}},
	}
	return []*routev3.Route{to(appCluster(in)+"/http1", old), to(appCluster(in), all)}
}

// inboundTCP connects to the application only once the caller has proved who it is.
func (w *writer) inboundTCP(in *plan.Inbound, mtls bool) *listenerv3.FilterChain {
	proxy := w.tcpProxyTo("inbound/"+clusterName(in.Service, in.Port), []plan.Weighted{{Cluster: appCluster(in), Weight: 1}}, 0)
	proxy.AccessLog = []*accesslogv3.AccessLog{w.openConnections(in.Policy)}
	proxy.AccessLogOptions = &tcpproxyv3.TcpProxy_TcpAccessLogOptions{
		FlushAccessLogOnConnected: true, AccessLogFlushInterval: dur(toldAgain),
	}
	name := "plaintext-tcp"
	if mtls {
		name = "tcp"
		proxy.UpstreamConnectMode = tcpproxyv3.UpstreamConnectMode_ON_DOWNSTREAM_TLS_HANDSHAKE
		proxy.MaxEarlyDataBytes = u32(bufferLimit)
	}
	return &listenerv3.FilterChain{
		Name:             name,
		FilterChainMatch: &listenerv3.FilterChainMatch{},
		Filters:          []*listenerv3.Filter{w.networkFilter("envoy.filters.network.tcp_proxy", proxy)},
	}
}

// apps are the clusters of one port's application: where the connection was
// going, or where the node says.
func (w *writer) apps(in *plan.Inbound, app *corev3.Address) []*clusterv3.Cluster {
	protocols := map[string]mesh.Protocol{appCluster(in): in.Protocol}
	if in.Protocol == mesh.ProtocolUnknown {
		protocols[appCluster(in)+"/http1"] = mesh.ProtocolHTTP
	}
	var out []*clusterv3.Cluster
	for _, name := range sortedKeys(protocols) {
		c := w.local(name, app)
		if !isTCP(in.Protocol) {
			c.TypedExtensionProtocolOptions = w.appOptions(protocols[name])
		}
		out = append(out, c)
	}
	return out
}

// local is a cluster without discovery: one address, or the original destination.
func (w *writer) local(name string, at *corev3.Address) *clusterv3.Cluster {
	c := &clusterv3.Cluster{
		Name:                          name,
		ConnectTimeout:                dur(time.Second),
		PerConnectionBufferLimitBytes: u32(bufferLimit),
		CircuitBreakers:               unlimited(),
	}
	if at == nil {
		c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_ORIGINAL_DST}
		c.LbPolicy = clusterv3.Cluster_CLUSTER_PROVIDED
		return c
	}
	c.ClusterDiscoveryType = &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC}
	c.LoadAssignment = &endpointv3.ClusterLoadAssignment{ClusterName: name, Endpoints: []*endpointv3.LocalityLbEndpoints{{
		LbEndpoints: []*endpointv3.LbEndpoint{{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: at}}}},
	}}}
	return c
}
