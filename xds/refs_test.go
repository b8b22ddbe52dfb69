package xds

import (
	"cmp"
	"slices"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/kerege/kerege/xds/delta"
)

// TestRefsAreWhatTheMessagesName compares what is read from the bytes with what
// is read from the decoded messages, for every resource that this room makes.
func TestRefsAreWhatTheMessagesName(t *testing.T) {
	total := 0
	for name, p := range cases() {
		set, err := NewTranslator().Translate(p)
		if err != nil {
			t.Fatal(err)
		}
		for _, g := range set.Groups {
			for _, r := range g.Resources {
				got, want := slices.Clone(r.Refs()), refsOf(t, r)
				order := func(a, b delta.Ref) int { return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Name, b.Name)) }
				slices.SortFunc(got, order)
				slices.SortFunc(want, order)
				if !slices.Equal(got, want) {
					t.Errorf("%s: %s %s names %v, want %v", name, r.Type, r.Name, got, want)
				}
				total += len(want)
			}
		}
	}
	if total < 20 {
		t.Errorf("only %d names were compared", total)
	}
}

func refsOf(t *testing.T, r *delta.Resource) []delta.Ref {
	f := oracle{seen: map[delta.Ref]bool{}}
	m, err := r.Body.UnmarshalNew()
	if err != nil {
		t.Fatal(err)
	}
	switch m := m.(type) {
	case *clusterv3.Cluster:
		f.cluster(m)
	case *listenerv3.Listener:
		f.listener(m)
	case *routev3.RouteConfiguration:
		f.routes(m)
	}
	return f.refs
}

// oracle reads the decoded messages.
type oracle struct {
	seen map[delta.Ref]bool
	refs []delta.Ref
}

func (f *oracle) add(typ, name string) {
	ref := delta.Ref{Type: typ, Name: name}
	if name == "" || f.seen[ref] {
		return
	}
	f.seen[ref] = true
	f.refs = append(f.refs, ref)
}

func (f *oracle) cluster(c *clusterv3.Cluster) {
	if e := c.GetEdsClusterConfig(); e.GetEdsConfig().GetAds() != nil {
		if e.GetServiceName() != "" {
			f.add(delta.TypeEndpoints, e.GetServiceName())
		} else {
			f.add(delta.TypeEndpoints, c.GetName())
		}
	}
	f.socket(c.GetTransportSocket())
	for _, m := range c.GetTransportSocketMatches() {
		f.socket(m.GetTransportSocket())
	}
}

func (f *oracle) listener(l *listenerv3.Listener) {
	for _, c := range l.GetFilterChains() {
		f.chain(c)
	}
	f.chain(l.GetDefaultFilterChain())
}

func (f *oracle) chain(c *listenerv3.FilterChain) {
	f.socket(c.GetTransportSocket())
	for _, filter := range c.GetFilters() {
		f.extension(filter.GetName(), filter.GetConfigDiscovery())
		m := unpack(filter.GetTypedConfig(), urlHCM, urlTCP)
		switch m := m.(type) {
		case *hcmv3.HttpConnectionManager:
			if m.GetRds().GetConfigSource().GetAds() != nil {
				f.add(delta.TypeRoute, m.GetRds().GetRouteConfigName())
			}
			f.routes(m.GetRouteConfig())
			for _, h := range m.GetHttpFilters() {
				f.extension(h.GetName(), h.GetConfigDiscovery())
			}
		case *tcpv3.TcpProxy:
			f.add(delta.TypeCluster, m.GetCluster())
			for _, w := range m.GetWeightedClusters().GetClusters() {
				f.add(delta.TypeCluster, w.GetName())
			}
		}
	}
}

func (f *oracle) extension(name string, c *corev3.ExtensionConfigSource) {
	if c.GetConfigSource().GetAds() != nil {
		f.add(delta.TypeExtension, name)
	}
}

func (f *oracle) routes(rc *routev3.RouteConfiguration) {
	f.mirrors(rc.GetRequestMirrorPolicies())
	for _, vh := range rc.GetVirtualHosts() {
		f.mirrors(vh.GetRequestMirrorPolicies())
		for _, r := range vh.GetRoutes() {
			a := r.GetRoute()
			f.add(delta.TypeCluster, a.GetCluster())
			for _, w := range a.GetWeightedClusters().GetClusters() {
				f.add(delta.TypeCluster, w.GetName())
			}
			f.mirrors(a.GetRequestMirrorPolicies())
		}
	}
}

func (f *oracle) mirrors(list []*routev3.RouteAction_RequestMirrorPolicy) {
	for _, m := range list {
		f.add(delta.TypeCluster, m.GetCluster())
	}
}

func (f *oracle) socket(s *corev3.TransportSocket) {
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

func (f *oracle) secret(s *tlsv3.SdsSecretConfig) {
	if s.GetSdsConfig().GetAds() != nil {
		f.add(delta.TypeSecret, s.GetName())
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
