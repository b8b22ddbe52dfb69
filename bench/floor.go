package main

import (
	"fmt"
	"net"
	"strconv"
	"strings"
	"sync"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/encoding"
	grpcproto "google.golang.org/grpc/encoding/proto"
	"google.golang.org/grpc/mem"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/kerege/kerege/e2e/xdsim"
)

// floor is the least that a server can do: it serves clusters and endpoints, and
// a change is one byte string, made once, sent to every stream that depends on
// it. Nobody can be faster over the same transport.
type floor struct {
	discovery.UnimplementedAggregatedDiscoveryServiceServer
	shape   shape
	mu      sync.Mutex
	streams map[int]chan frozen
	extra   map[int][]int // instances added, by service
}

type frozen []byte

type frozenCodec struct{ encoding.CodecV2 }

func (c frozenCodec) Marshal(v any) (mem.BufferSlice, error) {
	if f, ok := v.(frozen); ok {
		return mem.BufferSlice{mem.SliceBuffer(f)}, nil
	}
	return c.CodecV2.Marshal(v)
}

// runFloor serves in plaintext, or with node certificates kept under a folder.
func runFloor(s shape, tls string) error {
	f := &floor{shape: s, streams: map[int]chan frozen{}, extra: map[int][]int{}}
	options := []grpc.ServerOption{grpc.ForceServerCodecV2(frozenCodec{encoding.GetCodecV2(grpcproto.Name)})}
	if tls != "" {
		authority, err := issueNodes(tls, s)
		if err != nil {
			return err
		}
		defer authority.Close()
		cert, err := authority.ServerCert("bench", "127.0.0.1")
		if err != nil {
			return err
		}
		options = append(options, grpc.Creds(credentials.NewTLS(cert.GRPC())))
	}
	g := grpc.NewServer(options...)
	discovery.RegisterAggregatedDiscoveryServiceServer(g, f)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	go func() { _ = g.Serve(lis) }()
	say(answer{Addr: lis.Addr().String(), TLS: tls})
	serveOrders(f.change)
	g.Stop()
	return nil
}

func (f *floor) change(o order) answer {
	at := time.Now().UnixNano()
	f.mu.Lock()
	defer f.mu.Unlock()
	if o.Remove {
		f.extra[o.Service] = nil
	} else {
		f.extra[o.Service] = append(f.extra[o.Service], o.N)
	}
	b, err := proto.Marshal(f.endpoints("change", serviceName(o.Service)))
	if err != nil {
		return answer{Err: err.Error()}
	}
	for i, ch := range f.streams {
		if o.Service == hot || i < f.shape.fewer() {
			ch <- b
		}
	}
	return answer{At: at}
}

var overADS = &corev3.ConfigSource{ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}}}

func resourceOf(name string, m proto.Message) *discovery.Resource {
	a, err := anypb.New(m)
	if err != nil {
		panic(err) // a message that we made ourselves
	}
	return &discovery.Resource{Name: name, Version: "1", Resource: a}
}

// endpoints is a response with services' endpoints. mu is held.
func (f *floor) endpoints(nonce string, names ...string) *discovery.DeltaDiscoveryResponse {
	out := &discovery.DeltaDiscoveryResponse{TypeUrl: xdsim.Endpoints, Nonce: nonce}
	for _, name := range names {
		k, _ := strconv.Atoi(strings.TrimPrefix(name, "svc-"))
		lb := &endpointv3.LocalityLbEndpoints{}
		for _, n := range append([]int{0, 1}, f.extra[k]...) {
			ip, port := instance(k, n)
			lb.LbEndpoints = append(lb.LbEndpoints, &endpointv3.LbEndpoint{HostIdentifier: &endpointv3.LbEndpoint_Endpoint{Endpoint: &endpointv3.Endpoint{
				Address: &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
					Address: ip, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: uint32(port)}}}}}}})
		}
		out.Resources = append(out.Resources, resourceOf(name, &endpointv3.ClusterLoadAssignment{ClusterName: name, Endpoints: []*endpointv3.LocalityLbEndpoints{lb}}))
	}
	return out
}

func (f *floor) clusters(i int) *discovery.DeltaDiscoveryResponse {
	out := &discovery.DeltaDiscoveryResponse{TypeUrl: xdsim.Cluster, Nonce: "clusters"}
	for _, k := range f.shape.upstreams(i) {
		name := serviceName(k)
		out.Resources = append(out.Resources, resourceOf(name, &clusterv3.Cluster{Name: name, EdsClusterConfig: &clusterv3.Cluster_EdsClusterConfig{EdsConfig: overADS}}))
	}
	return out
}

// DeltaAggregatedResources answers each subscription once and then sends what changes.
func (f *floor) DeltaAggregatedResources(g discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	ch := make(chan frozen, 64)
	i, known := 0, false
	defer func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		delete(f.streams, i)
	}()
	go func() {
		for {
			select {
			case b := <-ch:
				if g.SendMsg(b) != nil {
					return
				}
			case <-g.Context().Done():
				return
			}
		}
	}()
	for {
		req, err := g.Recv()
		if err != nil {
			return err
		}
		if !known {
			known = true
			i, _ = strconv.Atoi(strings.TrimPrefix(req.GetNode().GetCluster(), "web-"))
		}
		if req.GetResponseNonce() != "" {
			continue
		}
		f.mu.Lock()
		var m *discovery.DeltaDiscoveryResponse
		switch req.GetTypeUrl() {
		case xdsim.Cluster:
			m = f.clusters(i)
		case xdsim.Endpoints:
			m = f.endpoints("first", req.GetResourceNamesSubscribe()...)
			f.streams[i] = ch
		}
		if m != nil {
			b, err := proto.Marshal(m)
			if err != nil {
				f.mu.Unlock()
				return err
			}
			ch <- b
		}
		f.mu.Unlock()
	}
}
