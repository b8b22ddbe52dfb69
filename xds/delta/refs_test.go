package delta

import (
	"slices"
	"testing"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
)

func TestRefs(t *testing.T) {
	mirror := func(c string) []*routev3.RouteAction_RequestMirrorPolicy {
		return []*routev3.RouteAction_RequestMirrorPolicy{{Cluster: c}}
	}
	rc := &routev3.RouteConfiguration{RequestMirrorPolicies: mirror("m1"), VirtualHosts: []*routev3.VirtualHost{{RequestMirrorPolicies: mirror("m2"),
		Routes: []*routev3.Route{{Action: &routev3.Route_Route{Route: &routev3.RouteAction{RequestMirrorPolicies: mirror("m3"),
			ClusterSpecifier: &routev3.RouteAction_WeightedClusters{WeightedClusters: &routev3.WeightedCluster{
				Clusters: []*routev3.WeightedCluster_ClusterWeight{{Name: "w1"}, {Name: "w2"}, {Name: "w1"}}}}}}}, {}}}}}
	agent := &corev3.ConfigSource{ConfigSourceSpecifier: &corev3.ConfigSource_ApiConfigSource{ApiConfigSource: &corev3.ApiConfigSource{}}}
	tls := anyOf(&tlsv3.UpstreamTlsContext{CommonTlsContext: &tlsv3.CommonTlsContext{
		TlsCertificateSdsSecretConfigs: []*tlsv3.SdsSecretConfig{{Name: "cert", SdsConfig: ads}, {Name: "agent's", SdsConfig: agent}},
		ValidationContextType: &tlsv3.CommonTlsContext_CombinedValidationContext{CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
			ValidationContextSdsSecretConfig: &tlsv3.SdsSecretConfig{Name: "roots", SdsConfig: ads}}}}})
	socket := &corev3.TransportSocket{ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: tls}}
	tcp := anyOf(&tcpv3.TcpProxy{ClusterSpecifier: &tcpv3.TcpProxy_WeightedClusters{WeightedClusters: &tcpv3.TcpProxy_WeightedCluster{
		Clusters: []*tcpv3.TcpProxy_WeightedCluster_ClusterWeight{{Name: "t1"}}}}})
	hcm := anyOf(&hcmv3.HttpConnectionManager{RouteSpecifier: &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: rc}})
	filter := func(name string) *listenerv3.Filter {
		return &listenerv3.Filter{Name: name, ConfigType: &listenerv3.Filter_ConfigDiscovery{ConfigDiscovery: &corev3.ExtensionConfigSource{ConfigSource: ads}}}
	}
	for _, c := range []struct {
		r    *Resource
		want []string
	}{
		{mk(TypeRoute, "r", rc), []string{"m1", "m2", "m3", "w1", "w2"}},
		{mk(TypeCluster, "c", &clusterv3.Cluster{Name: "c", TransportSocket: socket,
			EdsClusterConfig: &clusterv3.Cluster_EdsClusterConfig{ServiceName: "eds", EdsConfig: ads}}), []string{"cert", "eds", "roots"}},
		{mk(TypeCluster, "c", &clusterv3.Cluster{Name: "c", TransportSocketMatches: []*clusterv3.Cluster_TransportSocketMatch{{TransportSocket: socket}}}), []string{"cert", "roots"}},
		{mk(TypeListener, "l", &listenerv3.Listener{
			FilterChains:       []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{filter("x"), {ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: tcp}}}}},
			DefaultFilterChain: &listenerv3.FilterChain{Filters: []*listenerv3.Filter{{ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: hcm}}}}}),
			[]string{"m1", "m2", "m3", "t1", "w1", "w2", "x"}},
		{NewResource(TypeListener, "broken", []byte{0xff}, nil), nil},
		{mk(TypeEndpoints, "e", rc), nil},
	} {
		var got []string
		for _, ref := range c.r.Refs() {
			got = append(got, ref.Name)
		}
		slices.Sort(got)
		if !slices.Equal(got, c.want) {
			t.Errorf("%s names %v, want %v", c.r.Name, got, c.want)
		}
	}
}
