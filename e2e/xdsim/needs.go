package xdsim

import (
	"fmt"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// The six types, as Envoy names them.
const (
	Cluster   = "type.googleapis.com/envoy.config.cluster.v3.Cluster"
	Endpoints = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
	Listener  = "type.googleapis.com/envoy.config.listener.v3.Listener"
	Route     = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration"
	Extension = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"
	Secret    = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"
)

// needs reads what a resource names, field by field. It decodes the endpoints
// too, as a client must.
func needs(body *anypb.Any) ([]need, error) {
	var m proto.Message
	switch body.GetTypeUrl() {
	case Cluster:
		m = &clusterv3.Cluster{}
	case Endpoints:
		m = &endpointv3.ClusterLoadAssignment{}
	case Listener:
		m = &listenerv3.Listener{}
	case Route:
		m = &routev3.RouteConfiguration{}
	default:
		return nil, nil
	}
	if err := proto.Unmarshal(body.GetValue(), m); err != nil {
		return nil, fmt.Errorf("decoding %s: %w", body.GetTypeUrl(), err)
	}
	switch m := m.(type) {
	case *clusterv3.Cluster:
		return ofCluster(m), nil
	case *listenerv3.Listener:
		return ofListener(m), nil
	case *routev3.RouteConfiguration:
		return ofRoutes(m), nil
	}
	return nil, nil
}

func overADS(c *corev3.ConfigSource) bool { return c.GetAds() != nil }

func ofCluster(c *clusterv3.Cluster) (out []need) {
	if e := c.GetEdsClusterConfig(); overADS(e.GetEdsConfig()) {
		name := e.GetServiceName()
		if name == "" {
			name = c.GetName()
		}
		out = append(out, need{Endpoints, name})
	}
	out = append(out, ofSocket(c.GetTransportSocket())...)
	for _, m := range c.GetTransportSocketMatches() {
		out = append(out, ofSocket(m.GetTransportSocket())...)
	}
	return out
}

func ofSocket(s *corev3.TransportSocket) (out []need) {
	var common *tlsv3.CommonTlsContext
	up, down := &tlsv3.UpstreamTlsContext{}, &tlsv3.DownstreamTlsContext{}
	switch a := s.GetTypedConfig(); {
	case a.MessageIs(up) && a.UnmarshalTo(up) == nil:
		common = up.GetCommonTlsContext()
	case a.MessageIs(down) && a.UnmarshalTo(down) == nil:
		common = down.GetCommonTlsContext()
	}
	secrets := append([]*tlsv3.SdsSecretConfig{common.GetValidationContextSdsSecretConfig(),
		common.GetCombinedValidationContext().GetValidationContextSdsSecretConfig()}, common.GetTlsCertificateSdsSecretConfigs()...)
	for _, s := range secrets {
		if overADS(s.GetSdsConfig()) {
			out = append(out, need{Secret, s.GetName()})
		}
	}
	return out
}

func ofListener(l *listenerv3.Listener) (out []need) {
	for _, fc := range append(l.GetFilterChains(), l.GetDefaultFilterChain()) {
		out = append(out, ofSocket(fc.GetTransportSocket())...)
		for _, f := range fc.GetFilters() {
			if overADS(f.GetConfigDiscovery().GetConfigSource()) {
				out = append(out, need{Extension, f.GetName()})
			}
			hcm, tcp := &hcmv3.HttpConnectionManager{}, &tcpv3.TcpProxy{}
			switch a := f.GetTypedConfig(); {
			case a.MessageIs(hcm) && a.UnmarshalTo(hcm) == nil:
				out = append(out, ofHCM(hcm)...)
			case a.MessageIs(tcp) && a.UnmarshalTo(tcp) == nil:
				if tcp.GetCluster() != "" {
					out = append(out, need{Cluster, tcp.GetCluster()})
				}
				for _, w := range tcp.GetWeightedClusters().GetClusters() {
					out = append(out, need{Cluster, w.GetName()})
				}
			}
		}
	}
	return out
}

func ofHCM(h *hcmv3.HttpConnectionManager) (out []need) {
	if overADS(h.GetRds().GetConfigSource()) {
		out = append(out, need{Route, h.GetRds().GetRouteConfigName()})
	}
	for _, f := range h.GetHttpFilters() {
		if overADS(f.GetConfigDiscovery().GetConfigSource()) {
			out = append(out, need{Extension, f.GetName()})
		}
	}
	return append(out, ofRoutes(h.GetRouteConfig())...)
}

func ofRoutes(rc *routev3.RouteConfiguration) (out []need) {
	for _, vh := range rc.GetVirtualHosts() {
		for _, r := range vh.GetRoutes() {
			a := r.GetRoute()
			if a.GetCluster() != "" {
				out = append(out, need{Cluster, a.GetCluster()})
			}
			for _, w := range a.GetWeightedClusters().GetClusters() {
				if w.GetName() != "" {
					out = append(out, need{Cluster, w.GetName()})
				}
			}
			for _, m := range a.GetRequestMirrorPolicies() {
				out = append(out, need{Cluster, m.GetCluster()})
			}
		}
	}
	return out
}
