package delta

import (
	"fmt"
	"slices"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	tcpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/tcp_proxy/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

var ads = &corev3.ConfigSource{ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}}}

func mk(typ, name string, m proto.Message) *Resource {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		panic(err)
	}
	return NewResource(typ, name, b, name)
}

func anyOf(m proto.Message) *anypb.Any {
	a, err := anypb.New(m)
	if err != nil {
		panic(err)
	}
	return a
}

func cluster(name string, v int) *Resource {
	return mk(TypeCluster, name, &clusterv3.Cluster{Name: name, AltStatName: fmt.Sprint(v),
		EdsClusterConfig: &clusterv3.Cluster_EdsClusterConfig{EdsConfig: ads}})
}

func endpoints(name string, v int) *Resource {
	return mk(TypeEndpoints, name, &endpointv3.ClusterLoadAssignment{ClusterName: name,
		Endpoints: []*endpointv3.LocalityLbEndpoints{{Priority: uint32(v)}}})
}

func route(name string, v int, clusters ...string) *Resource {
	vh := &routev3.VirtualHost{Name: fmt.Sprint(v), Domains: []string{"*"}}
	for _, c := range clusters {
		vh.Routes = append(vh.Routes, &routev3.Route{Action: &routev3.Route_Route{
			Route: &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: c}}}})
	}
	return mk(TypeRoute, name, &routev3.RouteConfiguration{Name: name, VirtualHosts: []*routev3.VirtualHost{vh}})
}

// listener names one route, one extension and one secret of the given names, or
// a cluster by tcp_proxy; "" is none.
func listener(name string, v int, rds, ecds, secret, tcp string) *Resource {
	l := &listenerv3.Listener{Name: name, StatPrefix: fmt.Sprint(v)}
	fc := &listenerv3.FilterChain{}
	if rds != "" {
		h := &hcmv3.HttpConnectionManager{RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{
			Rds: &hcmv3.Rds{RouteConfigName: rds, ConfigSource: ads}}}
		if ecds != "" {
			h.HttpFilters = []*hcmv3.HttpFilter{{Name: ecds, ConfigType: &hcmv3.HttpFilter_ConfigDiscovery{
				ConfigDiscovery: &corev3.ExtensionConfigSource{ConfigSource: ads}}}}
		}
		fc.Filters = append(fc.Filters, &listenerv3.Filter{ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: anyOf(h)}})
	}
	if tcp != "" {
		fc.Filters = append(fc.Filters, &listenerv3.Filter{ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: anyOf(
			&tcpv3.TcpProxy{ClusterSpecifier: &tcpv3.TcpProxy_Cluster{Cluster: tcp}})}})
	}
	if secret != "" {
		fc.TransportSocket = &corev3.TransportSocket{ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: anyOf(
			&tlsv3.DownstreamTlsContext{CommonTlsContext: &tlsv3.CommonTlsContext{
				ValidationContextType: &tlsv3.CommonTlsContext_ValidationContextSdsSecretConfig{
					ValidationContextSdsSecretConfig: &tlsv3.SdsSecretConfig{Name: secret, SdsConfig: ads}}}})}}
	}
	l.FilterChains = []*listenerv3.FilterChain{fc}
	return mk(TypeListener, name, l)
}

func set(rs ...*Resource) *Set {
	s := &Set{}
	for _, r := range rs {
		s.Groups = append(s.Groups, &Group{Key: r.Type + "/" + r.Name, Resources: []*Resource{r}})
	}
	slices.SortFunc(s.Groups, func(a, b *Group) int {
		if a.Key < b.Key {
			return -1
		}
		return 1
	})
	return s
}

// rig drives a session by hand.
type rig struct {
	t   *testing.T
	s   *Session
	now time.Time
}

func newRig(t *testing.T, o Options) *rig {
	return &rig{t: t, s: New(o), now: time.Unix(1000, 0)}
}

func (r *rig) send(req *discovery.DeltaDiscoveryRequest) {
	r.t.Helper()
	if err := r.s.Receive(r.now, req); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) sub(typ string, names ...string) {
	r.t.Helper()
	r.send(&discovery.DeltaDiscoveryRequest{TypeUrl: typ, ResourceNamesSubscribe: names})
}

func (r *rig) unsub(typ string, names ...string) {
	r.t.Helper()
	r.send(&discovery.DeltaDiscoveryRequest{TypeUrl: typ, ResourceNamesUnsubscribe: names})
}

func (r *rig) again(typ string, initial map[string]string, names ...string) {
	r.t.Helper()
	r.send(&discovery.DeltaDiscoveryRequest{TypeUrl: typ, ResourceNamesSubscribe: names, InitialResourceVersions: initial})
}

func (r *rig) ack(m *discovery.DeltaDiscoveryResponse) {
	r.t.Helper()
	r.send(&discovery.DeltaDiscoveryRequest{TypeUrl: m.TypeUrl, ResponseNonce: m.Nonce})
}

func (r *rig) nack(m *discovery.DeltaDiscoveryResponse, words string) {
	r.t.Helper()
	r.send(&discovery.DeltaDiscoveryRequest{TypeUrl: m.TypeUrl, ResponseNonce: m.Nonce,
		ErrorDetail: &statuspb.Status{Code: 13, Message: words}})
}

// say is a message in short: the last word of its type, what it carries, and
// what it removes.
func say(m *discovery.DeltaDiscoveryResponse) string {
	if m == nil {
		return "nothing"
	}
	short := map[string]string{TypeSecret: "SDS", TypeCluster: "CDS", TypeEndpoints: "EDS", TypeListener: "LDS", TypeRoute: "RDS", TypeExtension: "ECDS"}
	out := short[m.TypeUrl]
	if out == "" {
		out = m.TypeUrl
	}
	for _, x := range m.Resources {
		out += " " + x.Name
	}
	for _, x := range m.RemovedResources {
		out += " -" + x
	}
	return out
}

func (r *rig) next(want string) *discovery.DeltaDiscoveryResponse {
	r.t.Helper()
	m, _ := r.s.Next(r.now)
	if got := say(m); got != want {
		r.t.Fatalf("next message is %q, want %q", got, want)
	}
	return m
}

// nextAck expects a message and accepts it.
func (r *rig) nextAck(want string) *discovery.DeltaDiscoveryResponse {
	r.t.Helper()
	m := r.next(want)
	r.ack(m)
	return m
}

func (r *rig) status(typ string) TypeStatus {
	r.t.Helper()
	for _, ts := range r.s.Status().Types {
		if ts.Type == typ {
			return ts
		}
	}
	r.t.Fatalf("no status of %s", typ)
	return TypeStatus{}
}
