package envoy

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"time"

	bootstrapv3 "github.com/envoyproxy/go-control-plane/envoy/config/bootstrap/v3"
	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	metricsv3 "github.com/envoyproxy/go-control-plane/envoy/config/metrics/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/structpb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/kerege/kerege/mesh"
)

// Names that the control plane's resources refer to.
const (
	AgentCluster = "kerege-agent"
	xdsSocket    = "xds.sock"
	adminSocket  = "admin.sock"
)

// maxRegex is the size of RE2 program that Envoy takes; users' expressions are
// held to it when they are read.
const maxRegex = 1000

// Config is what a bootstrap says.
type Config struct {
	ID           mesh.ProxyID
	Dir          string // the proxy's runtime folder: xds.sock is the agent's, admin.sock is Envoy's
	InboundPort  uint16 // where captured traffic arrives; 0: no capture
	OutboundPort uint16
	Explicit     []Explicit
	Accept       []Accept
	NoIPv6       bool
	Limits       Limits
}

// Explicit is a service to be reached at 127.0.0.1:LocalPort.
type Explicit struct {
	Service   mesh.ServiceName `json:"service"`
	Port      uint16           `json:"port"`
	LocalPort uint16           `json:"local_port"`
}

// Accept is where calls arrive without capture, and where the application is.
type Accept struct {
	Listen netip.AddrPort `json:"listen"`
	App    netip.AddrPort `json:"app"`
}

// XDSSocket is where the agent serves a proxy's configuration and secrets.
func XDSSocket(dir string) string { return filepath.Join(dir, xdsSocket) }

// AdminSocket is where a proxy's Envoy answers its agent.
func AdminSocket(dir string) string { return filepath.Join(dir, adminSocket) }

// Metadata is what a proxy says of itself in node.metadata, under "kerege".
type Metadata struct {
	InboundPort  uint16     `json:"inbound_port,omitempty"`
	OutboundPort uint16     `json:"outbound_port,omitempty"`
	Explicit     []Explicit `json:"explicit,omitempty"`
	Accept       []Accept   `json:"accept,omitempty"`
	NoIPv6       bool       `json:"no_ipv6,omitempty"`
	// Bridge is what the host has on the network of the proxy's own namespace.
	Bridge []netip.Addr `json:"bridge,omitempty"`
}

// Bootstrap writes Envoy's bootstrap as JSON: the same Config, the same bytes.
func Bootstrap(c Config) ([]byte, error) {
	for _, path := range []string{XDSSocket(c.Dir), AdminSocket(c.Dir)} {
		if len(path) > maxSocketPath {
			return nil, fmt.Errorf("writing Envoy's bootstrap: the socket's path %s has %d bytes, the kernel takes %d: use a shorter run_dir", path, len(path), maxSocketPath)
		}
	}
	metadata, err := c.metadata()
	if err != nil {
		return nil, fmt.Errorf("writing Envoy's bootstrap: %w", err)
	}
	b := &bootstrapv3.Bootstrap{
		Node:             &corev3.Node{Id: c.ID.String(), Cluster: string(c.ID.Service), Metadata: metadata},
		Admin:            admin(c.Dir),
		DynamicResources: dynamicResources(),
		StaticResources:  &bootstrapv3.Bootstrap_StaticResources{Clusters: []*clusterv3.Cluster{agent(c.Dir)}},
		LayeredRuntime:   runtime(c.Limits),
		StatsConfig:      &metricsv3.StatsConfig{StatsMatcher: wanted()},
		OverloadManager:  overload(c.Limits),
		DeferredStatOptions: &bootstrapv3.Bootstrap_DeferredStatOptions{
			EnableDeferredCreationStats: true, // an upstream that is never called costs no counters
		},
		StatsFlushInterval: durationpb.New(10 * time.Second),
	}
	if err := b.ValidateAll(); err != nil {
		return nil, fmt.Errorf("writing Envoy's bootstrap: %w", err)
	}
	text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(b)
	if err != nil {
		return nil, fmt.Errorf("writing Envoy's bootstrap: %w", err)
	}
	var out bytes.Buffer // protojson varies its white space on purpose
	if err := json.Indent(&out, text, "", "  "); err != nil {
		return nil, fmt.Errorf("writing Envoy's bootstrap: %w", err)
	}
	out.WriteByte('\n')
	return out.Bytes(), nil
}

// maxSocketPath is sun_path less its final zero.
const maxSocketPath = 107

func (c Config) metadata() (*structpb.Struct, error) {
	text, err := json.Marshal(map[string]Metadata{"kerege": {
		InboundPort: c.InboundPort, OutboundPort: c.OutboundPort, Explicit: c.Explicit, Accept: c.Accept, NoIPv6: c.NoIPv6,
	}})
	if err != nil {
		return nil, err
	}
	out := &structpb.Struct{}
	return out, protojson.Unmarshal(text, out)
}

// admin is for the agent and for who is root on the node.
func admin(dir string) *bootstrapv3.Admin {
	out := &bootstrapv3.Admin{
		Address: &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: AdminSocket(dir), Mode: 0o600}}},
		// The one way to see what is wrong must work when all connections are taken.
		IgnoreGlobalConnLimit: true,
	}
	for _, path := range []string{"/ready", "/stats", "/clusters", "/listeners", "/config_dump", "/certs", "/server_info", "/memory", "/runtime", "/logging", "/drain_listeners"} {
		out.AllowPaths = append(out.AllowPaths, &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: path}})
	}
	return out
}

func dynamicResources() *bootstrapv3.Bootstrap_DynamicResources {
	// No time limit on the first answer: an Envoy without its listeners is not ready.
	ads := func() *corev3.ConfigSource {
		return &corev3.ConfigSource{
			ResourceApiVersion:    corev3.ApiVersion_V3,
			InitialFetchTimeout:   durationpb.New(0),
			ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
		}
	}
	return &bootstrapv3.Bootstrap_DynamicResources{
		LdsConfig: ads(),
		CdsConfig: ads(),
		AdsConfig: &corev3.ApiConfigSource{
			ApiType:             corev3.ApiConfigSource_DELTA_GRPC,
			TransportApiVersion: corev3.ApiVersion_V3,
			GrpcServices: []*corev3.GrpcService{{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{
				EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: AgentCluster},
			}}},
			SetNodeOnFirstMessageOnly: true,
		},
	}
}

// agent is the way to the node's agent: a socket that is this proxy's alone.
func agent(dir string) *clusterv3.Cluster {
	options := &httpv3.HttpProtocolOptions{UpstreamProtocolOptions: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{
		ExplicitHttpConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
			ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{Http2ProtocolOptions: &corev3.Http2ProtocolOptions{
				InitialStreamWindowSize:     wrapperspb.UInt32(1 << 20),
				InitialConnectionWindowSize: wrapperspb.UInt32(16 << 20),
				ConnectionKeepalive: &corev3.KeepaliveSettings{
					Interval: durationpb.New(30 * time.Second), Timeout: durationpb.New(10 * time.Second),
				},
			}},
		},
	}}
	return &clusterv3.Cluster{
		Name:                 AgentCluster,
		ClusterDiscoveryType: &clusterv3.Cluster_Type{Type: clusterv3.Cluster_STATIC},
		ConnectTimeout:       durationpb.New(time.Second),
		// Each worker has a stream for each port's log; they must not keep out configuration.
		CircuitBreakers: &clusterv3.CircuitBreakers{Thresholds: []*clusterv3.CircuitBreakers_Thresholds{{
			MaxRequests: wrapperspb.UInt32(1 << 16), MaxPendingRequests: wrapperspb.UInt32(1 << 16),
		}}},
		TypedExtensionProtocolOptions: map[string]*anypb.Any{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": typed(options)},
		LoadAssignment: &endpointv3.ClusterLoadAssignment{ClusterName: AgentCluster, Endpoints: []*endpointv3.LocalityLbEndpoints{{
			LbEndpoints: []*endpointv3.LbEndpoint{{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{
				Address: &corev3.Address{Address: &corev3.Address_Pipe{Pipe: &corev3.Pipe{Path: XDSSocket(dir)}}},
			}}}},
		}}},
	}
}

// typed packs a message of our own making, whose marshalling cannot fail.
func typed(m proto.Message) *anypb.Any {
	out, err := anypb.New(m)
	if err != nil {
		panic(err) // a message without strings from outside
	}
	return out
}

func runtime(l Limits) *bootstrapv3.LayeredRuntime {
	static := &structpb.Struct{Fields: map[string]*structpb.Value{
		"re2.max_program_size.error_level": structpb.NewNumberValue(maxRegex),
	}}
	// Neither side may take all that the overload manager grants to both.
	for _, name := range []string{"inbound", "outbound"} {
		static.Fields["envoy.resource_limits.listener."+name+".connection_limit"] = structpb.NewNumberValue(float64(max(l.Connections/4*3, 1)))
	}
	return &bootstrapv3.LayeredRuntime{Layers: []*bootstrapv3.RuntimeLayer{{
		Name: "static", LayerSpecifier: &bootstrapv3.RuntimeLayer_StaticLayer{StaticLayer: static},
	}}}
}
