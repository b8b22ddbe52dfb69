package xds

import (
	"fmt"
	"math"
	"syscall"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	rawv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/raw_buffer/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/plan"
)

const (
	// bufferLimit bounds what one connection may hold in memory.
	bufferLimit = 32 << 10
	// deadAfter is how long sent bytes may stay unacknowledged before a
	// connection is given up: a dead host sends no reset.
	deadAfter = 700 * time.Millisecond
	// minRetries may always be under way, whatever the budget: when an instance
	// of a quiet service dies, all its calls are tried again at once.
	minRetries = 64
	// panicBelow is the percentage of healthy instances under which Envoy
	// distrusts the news and uses all of them.
	panicBelow = 50

	plaintextKey = "plaintext"
)

func (w *writer) socket(m proto.Message) *corev3.TransportSocket {
	name := "envoy.transport_sockets.tls"
	if _, raw := m.(*rawv3.RawBuffer); raw {
		name = "envoy.transport_sockets.raw_buffer"
	}
	return &corev3.TransportSocket{Name: name, ConfigType: &corev3.TransportSocket_TypedConfig{TypedConfig: w.any(m)}}
}

// cluster says one group of instances.
func (w *writer) cluster(c *plan.Cluster) *clusterv3.Cluster {
	out := &clusterv3.Cluster{
		Name:                          c.Name,
		ClusterDiscoveryType:          &clusterv3.Cluster_Type{Type: clusterv3.Cluster_EDS},
		EdsClusterConfig:              &clusterv3.Cluster_EdsClusterConfig{EdsConfig: adsSource(15 * time.Second), ServiceName: c.Name},
		ConnectTimeout:                dur(orElse(c.Connect, time.Second)),
		PerConnectionBufferLimitBytes: u32(bufferLimit),
		CircuitBreakers:               breakers(c),
		OutlierDetection:              outlier(c.Outlier),
		CommonLbConfig: &clusterv3.Cluster_CommonLbConfig{
			HealthyPanicThreshold: &typev3.Percent{Value: panicBelow},
			UpdateMergeWindow:     dur(0), // Envoy's own second would keep a failed instance in for that long
		},
		UpstreamConnectionOptions: &clusterv3.UpstreamConnectionOptions{TcpKeepalive: &corev3.TcpKeepalive{
			KeepaliveProbes: u32(3), KeepaliveTime: u32(5), KeepaliveInterval: u32(1),
		}},
		UpstreamBindConfig: &corev3.BindConfig{SocketOptions: []*corev3.SocketOption{userTimeout()}},
	}
	if c.Protocol != mesh.ProtocolTCP && c.Protocol != mesh.ProtocolTLS {
		out.TypedExtensionProtocolOptions = w.httpOptions(c.Protocol, c.MTLS == mesh.MTLSStrict || c.MTLS == mesh.MTLSUnset, c.Idle)
	}
	balance(out, c.Balance)
	w.transport(out, c)
	return out
}

// transport chooses TLS for the whole cluster, or per endpoint. What is not
// marked as plaintext is mTLS, so that endpoints and cluster may arrive in either
// order without a call going out in the clear.
func (w *writer) transport(out *clusterv3.Cluster, c *plan.Cluster) {
	if c.MTLS == mesh.MTLSDisabled {
		out.TransportSocket = w.socket(&rawv3.RawBuffer{})
		return
	}
	alpn := alpnHTTP
	if c.Protocol == mesh.ProtocolTCP || c.Protocol == mesh.ProtocolTLS {
		alpn = alpnTCP
	}
	out.TransportSocket = w.upstreamTLS(c.Identity, c.Port, alpn)
	if c.MTLS == mesh.MTLSPermissive {
		out.TransportSocketMatches = []*clusterv3.Cluster_TransportSocketMatch{{
			Name:            plaintextKey,
			Match:           &structpb.Struct{Fields: map[string]*structpb.Value{plaintextKey: structpb.NewBoolValue(true)}},
			TransportSocket: w.socket(&rawv3.RawBuffer{}),
		}}
	}
}

func userTimeout() *corev3.SocketOption {
	const tcpUserTimeout = 18 // TCP_USER_TIMEOUT of Linux; package syscall does not name it on every platform
	return &corev3.SocketOption{
		Description: "TCP_USER_TIMEOUT",
		Level:       syscall.IPPROTO_TCP,
		Name:        tcpUserTimeout,
		Value:       &corev3.SocketOption_IntValue{IntValue: deadAfter.Milliseconds()},
		State:       corev3.SocketOption_STATE_PREBIND,
	}
}

func breakers(c *plan.Cluster) *clusterv3.CircuitBreakers {
	limit := func(n *uint32) *wrapperspb.UInt32Value {
		if n == nil {
			return u32(math.MaxUint32)
		}
		return u32(*n)
	}
	return &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{
		Priority:           corev3.RoutingPriority_DEFAULT,
		MaxConnections:     limit(c.Limits.MaxConnections),
		MaxPendingRequests: limit(c.Limits.MaxPendingRequests),
		MaxRequests:        limit(c.Limits.MaxConcurrentRequests),
		RetryBudget: &clusterv3.CircuitBreakers_Thresholds_RetryBudget{
			BudgetPercent:       &typev3.Percent{Value: c.Budget},
			MinRetryConcurrency: u32(minRetries),
		},
	}}}
}

func unlimited() *clusterv3.CircuitBreakers {
	return &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{
		Priority:           corev3.RoutingPriority_DEFAULT,
		MaxConnections:     u32(math.MaxUint32),
		MaxPendingRequests: u32(math.MaxUint32),
		MaxRequests:        u32(math.MaxUint32),
		MaxRetries:         u32(minRetries),
	}}}
}

// outlier counts bad answers, and connections that fail, of each instance on
// its own. What Envoy would judge besides (success rates) is switched off.
func outlier(o mesh.Outlier) *clusterv3.OutlierDetection {
	if o.Off {
		return nil
	}
	failures := uint32(5)
	if o.Consecutive5xx != nil {
		failures = *o.Consecutive5xx
	}
	atMost := 50.0
	if o.AtMost != nil {
		atMost = *o.AtMost
	}
	return &clusterv3.OutlierDetection{
		Consecutive_5Xx:                        u32(failures),
		EnforcingConsecutive_5Xx:               u32(100),
		Interval:                               dur(orElse(value(o.Interval), 10*time.Second)),
		BaseEjectionTime:                       dur(orElse(value(o.Eject), 30*time.Second)),
		MaxEjectionPercent:                     u32(uint32(math.Round(atMost))),
		SplitExternalLocalOriginErrors:         true,
		ConsecutiveLocalOriginFailure:          u32(failures),
		EnforcingConsecutiveLocalOriginFailure: u32(100),
		EnforcingConsecutiveGatewayFailure:     u32(0),
		EnforcingSuccessRate:                   u32(0),
		EnforcingLocalOriginSuccessRate:        u32(0),
		EnforcingFailurePercentage:             u32(0),
		EnforcingFailurePercentageLocalOrigin:  u32(0),
	}
}

func balance(out *clusterv3.Cluster, b mesh.Balance) {
	var slow *clusterv3.Cluster_SlowStartConfig
	if d := value(b.SlowStart); d > 0 {
		slow = &clusterv3.Cluster_SlowStartConfig{SlowStartWindow: dur(d)}
	}
	switch b.Policy {
	case "random":
		out.LbPolicy = clusterv3.Cluster_RANDOM
	case "ring_hash":
		out.LbPolicy = clusterv3.Cluster_RING_HASH
	case "maglev":
		out.LbPolicy = clusterv3.Cluster_MAGLEV
	case "round_robin":
		out.LbPolicy = clusterv3.Cluster_ROUND_ROBIN
		if slow != nil {
			out.LbConfig = &clusterv3.Cluster_RoundRobinLbConfig_{RoundRobinLbConfig: &clusterv3.Cluster_RoundRobinLbConfig{SlowStartConfig: slow}}
		}
	default:
		out.LbPolicy = clusterv3.Cluster_LEAST_REQUEST
		out.LbConfig = &clusterv3.Cluster_LeastRequestLbConfig_{LeastRequestLbConfig: &clusterv3.Cluster_LeastRequestLbConfig{
			ChoiceCount: u32(2), SlowStartConfig: slow,
		}}
	}
}

// endpoints says who serves a cluster.
func endpoints(e *plan.Endpoints, name string) *endpointv3.ClusterLoadAssignment {
	out := &endpointv3.ClusterLoadAssignment{ClusterName: name}
	if e == nil {
		return out
	}
	for _, g := range e.Groups {
		for _, in := range []bool{true, false} {
			group := &endpointv3.LocalityLbEndpoints{Locality: &corev3.Locality{Region: g.Locality.Region, Zone: g.Locality.Zone, SubZone: subZone(g.Locality.SubZone, in)}}
			for _, i := range g.Endpoints {
				if i.In == in {
					group.LbEndpoints = append(group.LbEndpoints, endpoint(i))
				}
			}
			if len(group.LbEndpoints) > 0 {
				out.Endpoints = append(out.Endpoints, group)
			}
		}
	}
	return out
}

// subZone keeps instances that are reached in plaintext in a locality of their
// own: Envoy makes a host anew when its locality changes, so that one that comes
// into the mesh is not called over the plaintext connections it had before.
func subZone(name string, in bool) string {
	if in {
		return name
	}
	return name + "/plaintext"
}

func endpoint(i plan.Endpoint) *endpointv3.LbEndpoint {
	out := &endpointv3.LbEndpoint{
		HostIdentifier:      &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{Address: address(i.Addr.Addr().String(), i.Addr.Port())}},
		LoadBalancingWeight: u32(max(i.Weight, 1)),
		HealthStatus:        corev3.HealthStatus_HEALTHY,
	}
	switch i.Health {
	case mesh.Unhealthy:
		out.HealthStatus = corev3.HealthStatus_UNHEALTHY
	case mesh.Draining:
		out.HealthStatus = corev3.HealthStatus_DRAINING
	}
	if !i.In {
		out.Metadata = &corev3.Metadata{FilterMetadata: map[string]*structpb.Struct{
			"envoy.transport_socket_match": {Fields: map[string]*structpb.Value{plaintextKey: structpb.NewBoolValue(true)}},
		}}
	}
	return out
}

func address(ip string, port uint16) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Protocol:      corev3.SocketAddress_TCP,
		Address:       ip,
		PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(port)},
	}}}
}

func value(d *time.Duration) time.Duration {
	if d == nil {
		return 0
	}
	return *d
}

func orElse(d, other time.Duration) time.Duration {
	if d <= 0 {
		return other
	}
	return d
}

func clusterName(service mesh.ServiceName, port uint16) string {
	return fmt.Sprintf("%s:%d", service, port)
}
