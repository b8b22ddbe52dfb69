package delta

import (
	"slices"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// Ref names a resource that another one needs.
type Ref struct{ Type, Name string }

// Refs are the resources that r names and that come over the same stream:
// clusters, endpoints, routes, extensions and secrets. They are read from the
// bytes, so that they are right whoever made the resource. The list must not be
// changed.
func (r *Resource) Refs() []Ref {
	r.refsOnce.Do(func() {
		var m proto.Message
		switch r.Type {
		case TypeCluster:
			m = &clusterv3.Cluster{}
		case TypeListener:
			m = &listenerv3.Listener{}
		case TypeRoute:
			m = &routev3.RouteConfiguration{}
		default:
			return
		}
		if proto.Unmarshal(r.Body.GetValue(), m) != nil {
			return // the client will say so; until then it names nothing
		}
		f := finder{seen: map[Ref]bool{}}
		switch m := m.(type) {
		case *clusterv3.Cluster:
			f.cluster(m)
		case *listenerv3.Listener:
			f.listener(m)
		case *routev3.RouteConfiguration:
			f.routes(m)
		}
		r.refs = f.refs
	})
	return r.refs
}

// finder walks only where a name can be: a listener is read once for each proxy,
// so what it costs counts.
type finder struct {
	seen map[Ref]bool
	refs []Ref
}

func (f *finder) add(typ, name string) {
	ref := Ref{typ, name}
	if name == "" || f.seen[ref] {
		return
	}
	f.seen[ref] = true
	f.refs = append(f.refs, ref)
}

func (f *finder) cluster(c *clusterv3.Cluster) {
	if e := c.GetEdsClusterConfig(); e.GetEdsConfig().GetAds() != nil {
		if e.GetServiceName() != "" {
			f.add(TypeEndpoints, e.GetServiceName())
		} else {
			f.add(TypeEndpoints, c.GetName())
		}
	}
	f.socket(c.GetTransportSocket())
	for _, m := range c.GetTransportSocketMatches() {
		f.socket(m.GetTransportSocket())
	}
}

func (f *finder) listener(l *listenerv3.Listener) {
	for _, c := range l.GetFilterChains() {
		f.chain(c)
	}
	f.chain(l.GetDefaultFilterChain())
}

func (f *finder) chain(c *listenerv3.FilterChain) {
	f.socket(c.GetTransportSocket())
	for _, filter := range c.GetFilters() {
		f.extension(filter.GetName(), filter.GetConfigDiscovery())
		m := unpack(filter.GetTypedConfig(), urlHCM, urlTCP)
		switch m := m.(type) {
		case *hcmv3.HttpConnectionManager:
			if m.GetRds().GetConfigSource().GetAds() != nil {
				f.add(TypeRoute, m.GetRds().GetRouteConfigName())
			}
			f.routes(m.GetRouteConfig())
			for _, h := range m.GetHttpFilters() {
				f.extension(h.GetName(), h.GetConfigDiscovery())
			}
		case *tcpv3.TcpProxy:
			f.add(TypeCluster, m.GetCluster())
			for _, w := range m.GetWeightedClusters().GetClusters() {
				f.add(TypeCluster, w.GetName())
			}
		}
	}
}

func (f *finder) extension(name string, c *corev3.ExtensionConfigSource) {
	if c.GetConfigSource().GetAds() != nil {
		f.add(TypeExtension, name)
	}
}

func (f *finder) routes(rc *routev3.RouteConfiguration) {
	f.mirrors(rc.GetRequestMirrorPolicies())
	for _, vh := range rc.GetVirtualHosts() {
		f.mirrors(vh.GetRequestMirrorPolicies())
		for _, r := range vh.GetRoutes() {
			a := r.GetRoute()
			f.add(TypeCluster, a.GetCluster())
			for _, w := range a.GetWeightedClusters().GetClusters() {
				f.add(TypeCluster, w.GetName())
			}
			f.mirrors(a.GetRequestMirrorPolicies())
		}
	}
}

func (f *finder) mirrors(list []*routev3.RouteAction_RequestMirrorPolicy) {
	for _, m := range list {
		f.add(TypeCluster, m.GetCluster())
	}
}

func (f *finder) socket(s *corev3.TransportSocket) {
	var c *tlsv3.CommonTlsContext
	switch m := unpack(s.GetTypedConfig(), urlUpstream, urlDownstream).(type) {
	case *tlsv3.UpstreamTlsContext:
		c = m.GetCommonTlsContext()
	case *tlsv3.DownstreamTlsContext:
		c = m.GetCommonTlsContext()
	}
	f.secret(c.GetValidationContextSdsSecretConfig())
	f.secret(c.GetCombinedValidationContext().GetValidationContextSdsSecretConfig())
	for _, s := range c.GetTlsCertificateSdsSecretConfigs() {
		f.secret(s)
	}
}

func (f *finder) secret(s *tlsv3.SdsSecretConfig) {
	if s.GetSdsConfig().GetAds() != nil {
		f.add(TypeSecret, s.GetName())
	}
}

const (
	urlHCM        = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
	urlTCP        = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"
	urlUpstream   = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
	urlDownstream = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"
)

// unpack decodes a, if it is one of the types.
func unpack(a *anypb.Any, urls ...string) proto.Message {
	if !slices.Contains(urls, a.GetTypeUrl()) {
		return nil
	}
	m, err := a.UnmarshalNew()
	if err != nil {
		return nil
	}
	return m
}
