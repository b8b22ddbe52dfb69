package xds

import (
	"net/netip"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	filterstatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/common/set_filter_state/v3"
	httpinspectorv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/http_inspector/v3"
	originaldstv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/listener/original_dst/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	setfilterstatev3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/set_filter_state/v3"
	tcpproxyv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"

	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/plan"
)

const (
	outboundName    = "outbound"
	passthroughName = "passthrough"
	// detectWithin is how long a connection may be silent before it counts as not
	// HTTP, or as not TLS: what a server that speaks first costs its callers.
	detectWithin = 300 * time.Millisecond
)

// Where virtual addresses are.
var virtual = []netip.Prefix{netip.MustParsePrefix("240.0.0.0/4"), netip.MustParsePrefix("fd6b:6572:6567::/48")}

func upstreamName(service mesh.ServiceName, port uint16) string {
	return "upstream/" + clusterName(service, port)
}

func listener(name string, at []*corev3.Address, chains ...*listenerv3.FilterChain) *listenerv3.Listener {
	out := &listenerv3.Listener{
		Name:                          name,
		StatPrefix:                    name,
		Address:                       at[0],
		FilterChains:                  chains,
		PerConnectionBufferLimitBytes: u32(bufferLimit),
		TrafficDirection:              corev3.TrafficDirection_OUTBOUND,
		TcpKeepalive:                  &corev3.TcpKeepalive{KeepaliveProbes: u32(3), KeepaliveTime: u32(30), KeepaliveInterval: u32(10)},
	}
	for _, a := range at[1:] {
		out.AdditionalAddresses = append(out.AdditionalAddresses, &listenerv3.AdditionalAddress{Address: a})
	}
	return out
}

func (w *writer) listenerFilter(name string, m proto.Message) *listenerv3.ListenerFilter {
	return &listenerv3.ListenerFilter{Name: "envoy.filters.listener." + name, ConfigType: &listenerv3.ListenerFilter_TypedConfig{TypedConfig: w.any(m)}}
}

// outbound is where captured connections arrive. Those to a virtual address that
// the plan knows go on to that address's listener; this one answers the rest.
func (w *writer) outbound(p *plan.Proxy) *listenerv3.Listener {
	port := p.Node.OutboundPort
	at := []*corev3.Address{address("127.0.0.1", port)}
	if !p.Node.NoIPv6 {
		at = append(at, address("::1", port))
	}
	// Who dials the capture port itself would be sent round in a circle.
	loop := &listenerv3.FilterChain{Name: "loop", FilterChainMatch: &listenerv3.FilterChainMatch{
		DestinationPort: u32(uint32(port)),
		PrefixRanges:    ranges(netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")),
	}}
	unknown := w.refusal("unknown-service", 403, missingIntention(p.Outside.Caller, ""))
	unknown.FilterChainMatch.PrefixRanges = ranges(virtual...)
	unknownToo := proto.Clone(unknown).(*listenerv3.FilterChain)
	unknownToo.Name += "-on-capture-port" // a port that one chain names is looked up among such chains only
	unknownToo.FilterChainMatch.DestinationPort = u32(uint32(port))

	out := listener(outboundName, at, loop, unknown, unknownToo)
	out.UseOriginalDst = yes()
	out.ListenerFilters = []*listenerv3.ListenerFilter{w.listenerFilter("original_dst", &originaldstv3.OriginalDst{})}
	if p.Outside.Mode == mesh.OutboundAny {
		out.DefaultFilterChain = &listenerv3.FilterChain{Name: passthroughName, Filters: []*listenerv3.Filter{w.tcpProxy(passthroughName, passthroughName, time.Hour)}}
	} else {
		out.DefaultFilterChain = w.refusal("outside", 502, outsideRefused(p.Outside.Caller))
		out.DefaultFilterChain.FilterChainMatch = nil
	}
	return out
}

func ranges(ps ...netip.Prefix) []*corev3.CidrRange {
	out := make([]*corev3.CidrRange, len(ps))
	for i, p := range ps {
		out[i] = &corev3.CidrRange{AddressPrefix: p.Addr().String(), PrefixLen: u32(uint32(p.Bits()))}
	}
	return out
}

// missingIntention is what a caller reads that no intention lets through. Behind
// a virtual address the destination is only known by the name in the Host header.
func missingIntention(caller, destination mesh.ServiceName) string {
	who, what, label := escape(string(caller)), "%REQ(:AUTHORITY)%", "DESTINATION"
	hint := "What would allow it, with the destination's name as the label:\n\n"
	if destination != "" {
		what, label = escape(string(destination)), escape(string(destination))
		hint = "What would allow it:\n\n"
	}
	return "kerege: " + who + " may not call " + what + ": no intention names it as a caller there, or there is no such service.\n" + hint +
		"intention \"" + label + "\" {\n  allow {\n    from = [\"" + who + "\"]\n  }\n}\n"
}

func outsideRefused(caller mesh.ServiceName) string {
	return "kerege: " + escape(string(caller)) + " may not call %REQ(:AUTHORITY)%: the mesh does not know that address, and outbound is \"registered\".\n" +
		"Register it as a service, or say in the mesh block: outbound = \"any\"\n"
}

func escape(s string) string { return strings.ReplaceAll(s, "%", "%%") }

// upstreamListener is one port of a service, at the addresses given.
func (w *writer) upstreamListener(u *plan.Upstream, p *plan.UpstreamPort, at []*corev3.Address) *listenerv3.Listener {
	name := upstreamName(u.Service, p.Number)
	switch p.Protocol {
	case mesh.ProtocolTCP, mesh.ProtocolTLS:
		return listener(name, at, w.upstreamTCP(p, name))
	case mesh.ProtocolUnknown:
		http := w.upstreamHTTP(u.Service, p, name, formatted(headerProtocol, "%PROTOCOL%", overwrite))
		http.FilterChainMatch.ApplicationProtocols = []string{"http/1.0", "http/1.1", "h2c"}
		out := listener(name, at, http, w.upstreamTCP(p, name))
		out.ListenerFilters = []*listenerv3.ListenerFilter{w.listenerFilter("http_inspector", &httpinspectorv3.HttpInspector{})}
		out.ListenerFiltersTimeout = dur(detectWithin)
		out.ContinueOnListenerFiltersTimeout = true
		return out
	}
	return listener(name, at, w.upstreamHTTP(u.Service, p, name))
}

func (w *writer) upstreamHTTP(service mesh.ServiceName, p *plan.UpstreamPort, name string, add ...*corev3.HeaderValueOption) *listenerv3.FilterChain {
	m := w.connectionManager(name)
	m.StreamIdleTimeout = off(p.Idle)
	// An HTTP/1.1 answer that is cut ends with its connection, which waits so long for
	// the program to have read what it got; that is on this host.
	m.DelayedCloseTimeout = dur(250 * time.Millisecond)
	m.HttpProtocolOptions.DefaultHostForHttp_10 = string(service) + ".mesh"
	m.RouteSpecifier = &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{ConfigSource: adsSource(15 * time.Second), RouteConfigName: p.Route.Name}}
	private := []string{"x-envoy-", "x-kerege-"}
	m.HttpFilters = []*hcmv3.HttpFilter{w.strip(private, private, add...), w.router()}
	return w.httpChain("http", m)
}

func (w *writer) upstreamTCP(p *plan.UpstreamPort, name string) *listenerv3.FilterChain {
	proxy := w.tcpProxyTo(name, p.TCP, p.Idle)
	for _, c := range p.Clusters {
		if h := c.Balance.Hash; h != nil && h.SourceIP && len(proxy.HashPolicy) == 0 {
			proxy.HashPolicy = []*typev3.HashPolicy{{PolicySpecifier: &typev3.HashPolicy_SourceIp_{SourceIp: &typev3.HashPolicy_SourceIp{}}}}
		}
	}
	out := &listenerv3.FilterChain{Name: "tcp", FilterChainMatch: &listenerv3.FilterChainMatch{}}
	if p.Protocol == mesh.ProtocolUnknown {
		// The cluster offers HTTP's ALPN; this connection is something else.
		out.Filters = append(out.Filters, w.notHTTP())
	}
	if proxy.ClusterSpecifier != nil {
		out.Filters = append(out.Filters, w.networkFilter("envoy.filters.network.tcp_proxy", proxy))
	} else {
		out.Filters = nil // nowhere to go: closed
	}
	return out
}

// notHTTP offers the other ALPN for one connection, where the cluster offers HTTP's.
func (w *writer) notHTTP() *listenerv3.Filter {
	return w.networkFilter("envoy.filters.network.set_filter_state", &setfilterstatev3.Config{
		OnNewConnection: []*filterstatev3.FilterStateValue{{
			Key: &filterstatev3.FilterStateValue_ObjectKey{ObjectKey: "envoy.network.application_protocols"},
			Value: &filterstatev3.FilterStateValue_FormatString{FormatString: &corev3.SubstitutionFormatString{
				Format: &corev3.SubstitutionFormatString_TextFormatSource{TextFormatSource: &corev3.DataSource{
					Specifier: &corev3.DataSource_InlineString{InlineString: alpnTCP},
				}},
			}},
		}},
	})
}

func (w *writer) tcpProxy(stat, cluster string, idle time.Duration) *listenerv3.Filter {
	return w.networkFilter("envoy.filters.network.tcp_proxy", w.tcpProxyTo(stat, []plan.Weighted{{Cluster: cluster, Weight: 1}}, idle))
}

func (w *writer) tcpProxyTo(stat string, to []plan.Weighted, idle time.Duration) *tcpproxyv3.TcpProxy {
	out := &tcpproxyv3.TcpProxy{StatPrefix: stat, IdleTimeout: off(idle), MaxConnectAttempts: u32(3)}
	var list []*tcpproxyv3.TcpProxy_WeightedCluster_ClusterWeight
	for _, t := range to {
		if t.Weight > 0 {
			list = append(list, &tcpproxyv3.TcpProxy_WeightedCluster_ClusterWeight{Name: t.Cluster, Weight: t.Weight})
		}
	}
	switch len(list) {
	case 0:
	case 1:
		out.ClusterSpecifier = &tcpproxyv3.TcpProxy_Cluster{Cluster: list[0].Name}
	default:
		out.ClusterSpecifier = &tcpproxyv3.TcpProxy_WeightedClusters{WeightedClusters: &tcpproxyv3.TcpProxy_WeightedCluster{Clusters: list}}
	}
	return out
}

// refusedListener stands at a loopback port whose service the caller may not see.
func (w *writer) refusedListener(p *plan.Proxy, e plan.Explicit) *listenerv3.Listener {
	chain := w.refusal("unknown-service", 403, missingIntention(p.Outside.Caller, e.Service))
	return listener(upstreamName(e.Service, e.Port), loopback(e.LocalPort), chain)
}

func loopback(port uint16) []*corev3.Address {
	return []*corev3.Address{address("127.0.0.1", port)}
}

// virtualAddresses is where a captured port's listener stands, without a socket.
func virtualAddresses(p *plan.UpstreamPort) []*corev3.Address {
	var out []*corev3.Address
	for _, a := range p.Virtual {
		if a.IsValid() {
			out = append(out, address(a.String(), p.Number))
		}
	}
	return out
}
