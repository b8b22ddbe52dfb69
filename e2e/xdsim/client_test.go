package xdsim

import (
	"context"
	"net"
	"strings"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// script is a server that says what it is told to, right or wrong, and keeps
// what it hears.
type script struct {
	discovery.UnimplementedAggregatedDiscoveryServiceServer
	say   []*discovery.DeltaDiscoveryResponse
	heard chan *discovery.DeltaDiscoveryRequest
}

func (s *script) DeltaAggregatedResources(g discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	for _, m := range s.say {
		if err := g.Send(m); err != nil {
			return err
		}
	}
	for {
		r, err := g.Recv()
		if err != nil {
			return nil
		}
		s.heard <- r
	}
}

func pack(name string, m proto.Message) *discovery.Resource {
	a, err := anypb.New(m)
	if err != nil {
		panic(err)
	}
	return &discovery.Resource{Name: name, Version: "1", Resource: a}
}

func cluster(name string) *discovery.Resource {
	return pack(name, &clusterv3.Cluster{Name: name, EdsClusterConfig: &clusterv3.Cluster_EdsClusterConfig{
		EdsConfig: &corev3.ConfigSource{ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}}}}})
}

func route(name, to string) *discovery.Resource {
	return pack(name, &routev3.RouteConfiguration{Name: name, VirtualHosts: []*routev3.VirtualHost{{Routes: []*routev3.Route{{
		Action: &routev3.Route_Route{Route: &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: to}}}}}}}})
}

func play(t *testing.T, mode Mode, say ...*discovery.DeltaDiscoveryResponse) (*Client, *script) {
	t.Helper()
	s := &script{say: say, heard: make(chan *discovery.DeltaDiscoveryRequest, 100)}
	g := grpc.NewServer()
	discovery.RegisterAggregatedDiscoveryServiceServer(g, s)
	lis := bufconn.Listen(1 << 16)
	served := make(chan struct{})
	go func() { defer close(served); _ = g.Serve(lis) }()
	conn, err := grpc.NewClient("passthrough:///x", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return lis.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	c, err := Open(context.Background(), conn, &corev3.Node{Id: "x"}, mode, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); conn.Close(); g.Stop(); <-served })
	return c, s
}

// hear reads requests until one is as wanted.
func (s *script) hear(t *testing.T, ok func(*discovery.DeltaDiscoveryRequest) bool) *discovery.DeltaDiscoveryRequest {
	t.Helper()
	for {
		select {
		case r := <-s.heard:
			if ok(r) {
				return r
			}
		case <-time.After(20 * time.Second):
			t.Fatal("the client does not say it")
		}
	}
}

// TestProblems: each promise that a server breaks is seen.
func TestProblems(t *testing.T) {
	for _, c := range []struct {
		says string // "": no problem
		send []*discovery.DeltaDiscoveryResponse
	}{
		{"", []*discovery.DeltaDiscoveryResponse{
			{TypeUrl: Cluster, Nonce: "1", Resources: []*discovery.Resource{cluster("a")}},
			{TypeUrl: Route, Nonce: "2", Resources: []*discovery.Resource{route("r", "a")}},
			{TypeUrl: Route, Nonce: "3", RemovedResources: []string{"r"}},
			{TypeUrl: Cluster, Nonce: "4", RemovedResources: []string{"a"}}}},
		{"twice in one message", []*discovery.DeltaDiscoveryResponse{{TypeUrl: Cluster, Nonce: "1", Resources: []*discovery.Resource{cluster("a"), cluster("a")}}}},
		{"names cluster b, which was not sent", []*discovery.DeltaDiscoveryResponse{
			{TypeUrl: Cluster, Nonce: "1", Resources: []*discovery.Resource{cluster("a")}},
			{TypeUrl: Route, Nonce: "2", Resources: []*discovery.Resource{route("r", "b")}}}},
		{"was removed, and", []*discovery.DeltaDiscoveryResponse{
			{TypeUrl: Cluster, Nonce: "1", Resources: []*discovery.Resource{cluster("a")}},
			{TypeUrl: Route, Nonce: "2", Resources: []*discovery.Resource{route("r", "a")}},
			{TypeUrl: Cluster, Nonce: "3", RemovedResources: []string{"a"}}}},
		{"no nonce", []*discovery.DeltaDiscoveryResponse{{TypeUrl: Cluster}}},
	} {
		cl, s := play(t, Mode{}, c.send...)
		last := c.send[len(c.send)-1]
		s.hear(t, func(r *discovery.DeltaDiscoveryRequest) bool {
			return cl.Messages() == len(c.send) && r.ResponseNonce == last.Nonce && r.TypeUrl == last.TypeUrl
		})
		got := strings.Join(cl.Problems(), "\n")
		if c.says == "" && got != "" || !strings.Contains(got, c.says) {
			t.Errorf("problems %q, want %q", got, c.says)
		}
	}
}

func TestFollowsAndAnswers(t *testing.T) {
	_, s := play(t, Mode{Nack: func(typ, name, _ string) string {
		if name == "bad" {
			return "cluster bad: no"
		}
		return ""
	}}, &discovery.DeltaDiscoveryResponse{TypeUrl: Cluster, Nonce: "7", Resources: []*discovery.Resource{cluster("a"), cluster("bad")}})
	s.hear(t, func(r *discovery.DeltaDiscoveryRequest) bool {
		return r.GetNode().GetId() == "x" && r.TypeUrl == Cluster && len(r.ResourceNamesSubscribe) == 0
	})
	s.hear(t, func(r *discovery.DeltaDiscoveryRequest) bool {
		return r.TypeUrl == Endpoints && len(r.ResourceNamesSubscribe) == 1 && r.ResourceNamesSubscribe[0] == "a"
	})
	s.hear(t, func(r *discovery.DeltaDiscoveryRequest) bool {
		return r.ResponseNonce == "7" && strings.Contains(r.GetErrorDetail().GetMessage(), "cluster bad: no")
	})
}
