package serve

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"go.uber.org/goleak"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/kerege/kerege/e2e/xdsim"
	"github.com/kerege/kerege/xds/delta"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// lab is a server with an in-process network.
type lab struct {
	t      *testing.T
	s      *Server
	ctx    context.Context
	lis    *bufconn.Listener
	mu     sync.Mutex
	events []string
	conns  []*grpc.ClientConn
	g      *grpc.Server
}

func newLab(t *testing.T, c Config) *lab {
	l := &lab{t: t, lis: bufconn.Listen(1 << 20)}
	note := func(format string, args ...any) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.events = append(l.events, fmt.Sprintf(format, args...))
	}
	if c.Identify == nil {
		c.Identify = func(_ context.Context, n *corev3.Node) (string, error) { return n.GetId(), nil }
	}
	c.Opened = func(id string, n *corev3.Node) { note("open %s", id) }
	c.Closed = func(id string, left int) { note("close %s %d", id, left) }
	l.s = New(c)
	l.g = grpc.NewServer(ServerOptions()...)
	l.s.Register(l.g)
	served := make(chan struct{})
	go func() { defer close(served); _ = l.g.Serve(l.lis) }()
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	l.ctx = ctx
	t.Cleanup(func() {
		cancel()
		for _, c := range l.conns {
			c.Close()
		}
		l.s.Close()
		l.g.Stop()
		<-served
		l.s.Wait()
	})
	return l
}

func (l *lab) conn() *grpc.ClientConn {
	l.t.Helper()
	c, err := grpc.NewClient("passthrough:///x", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.lis.DialContext(ctx) }))
	if err != nil {
		l.t.Fatal(err)
	}
	l.conns = append(l.conns, c)
	return c
}

func node(id string) *corev3.Node {
	return &corev3.Node{Id: id, UserAgentName: "envoy", UserAgentVersionType: &corev3.Node_UserAgentVersion{UserAgentVersion: "1.40.0"}}
}

func (l *lab) open(id string, m xdsim.Mode, st *xdsim.State) *xdsim.Client {
	l.t.Helper()
	c, err := xdsim.Open(l.ctx, l.conn(), node(id), m, st)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { c.Close() })
	return c
}

// known waits until the server has the stream, so that a Set reaches it.
func (l *lab) known(ids ...string) {
	l.t.Helper()
	l.until("streams of "+strings.Join(ids, " "), func() bool {
		var have []string
		for _, p := range l.s.Status() {
			have = append(have, p.ID)
		}
		return slices.Equal(have, ids)
	})
}

func (l *lab) until(what string, ok func() bool) {
	l.t.Helper()
	for range 5000 {
		if ok() {
			return
		}
		select {
		case <-l.ctx.Done():
			l.t.Fatalf("%s: not in time", what)
		case <-time.After(2 * time.Millisecond):
		}
	}
	l.t.Fatalf("%s: not in time", what)
}

func (l *lab) holds(c *xdsim.Client, typ string, names ...string) {
	l.t.Helper()
	err := c.Wait(l.ctx, typ, func(h map[string]string) bool {
		if len(h) != len(names) {
			return false
		}
		for _, n := range names {
			if h[n] == "" {
				return false
			}
		}
		return true
	})
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *lab) fine(cs ...*xdsim.Client) {
	l.t.Helper()
	for _, c := range cs {
		if p := c.Problems(); len(p) > 0 {
			l.t.Errorf("broken promises: %s", strings.Join(p, "\n"))
		}
	}
}

var ads = &corev3.ConfigSource{ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}}}

func mk(typ, name string, m proto.Message) *delta.Resource {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	if err != nil {
		panic(err)
	}
	return delta.NewResource(typ, name, b, name)
}

func anyOf(m proto.Message) *anypb.Any {
	a, err := anypb.New(m)
	if err != nil {
		panic(err)
	}
	return a
}

// service is a group: a cluster, its endpoints and its route.
func service(name string, v int) *delta.Group {
	return &delta.Group{Key: "upstream/" + name, Resources: []*delta.Resource{
		mk(delta.TypeCluster, name, &clusterv3.Cluster{Name: name, EdsClusterConfig: &clusterv3.Cluster_EdsClusterConfig{EdsConfig: ads}}),
		mk(delta.TypeEndpoints, name, &endpointv3.ClusterLoadAssignment{ClusterName: name, Endpoints: []*endpointv3.LocalityLbEndpoints{{Priority: uint32(v)}}}),
		mk(delta.TypeRoute, name, &routev3.RouteConfiguration{Name: name, VirtualHosts: []*routev3.VirtualHost{{Name: name, Domains: []string{"*"}, Routes: []*routev3.Route{{
			Action: &routev3.Route_Route{Route: &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: name}}}}}}}}),
		mk(delta.TypeListener, name, &listenerv3.Listener{Name: name, FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{{
			ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: anyOf(&hcmv3.HttpConnectionManager{RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{
				Rds: &hcmv3.Rds{RouteConfigName: name, ConfigSource: ads}}})}}}}}}),
	}}
}

func set(groups ...*delta.Group) *delta.Set { return &delta.Set{Groups: groups} }

func TestServe(t *testing.T) {
	l := newLab(t, Config{})
	c := l.open("web/n1", xdsim.Mode{}, nil)
	l.known("web/n1")
	if n := c.Messages(); n != 0 {
		t.Fatalf("%d messages before the first set", n)
	}
	a, b := service("a", 1), service("b", 1)
	l.s.Set("web/n1", set(a, b))
	l.holds(c, xdsim.Route, "a", "b")
	l.holds(c, xdsim.Listener, "a", "b")
	l.holds(c, xdsim.Endpoints, "a", "b")
	l.s.Set("web/n1", set(b, service("c", 1)))
	l.holds(c, xdsim.Cluster, "b", "c")
	l.holds(c, xdsim.Route, "b", "c")
	l.until("synced", func() bool { return l.s.Status()[0].Unacked.IsZero() })
	p := l.s.Status()[0]
	if p.Bytes == 0 || p.Acks != p.Messages || p.Nacks != 0 || p.Waiting || p.Envoy != "envoy 1.40.0" {
		t.Errorf("status %+v", p)
	}
	for _, ts := range p.Types {
		if ts.State != delta.Synced {
			t.Errorf("%s is %s", ts.Type, ts.State)
		}
	}
	l.fine(c)
	before := c.Messages()
	st := c.Close()
	l.until("closed", func() bool { return len(l.s.Status()) == 0 })
	again := l.open("web/n1", xdsim.Mode{}, st)
	l.known("web/n1")
	l.s.Set("web/n1", set(b, service("c", 2)))
	l.until("the change", func() bool { return again.Messages() == 1 })
	l.holds(again, xdsim.Endpoints, "b", "c")
	if got := again.Messages(); got != 1 || before < 4 {
		t.Errorf("%d messages after a reconnect, want the one change", got)
	}
	l.fine(again)
	again.Close()
	l.until("closed", func() bool { return len(l.s.Status()) == 0 })
	l.mu.Lock()
	defer l.mu.Unlock()
	if want := []string{"open web/n1", "close web/n1 0", "open web/n1", "close web/n1 0"}; !slices.Equal(l.events, want) {
		t.Errorf("events %v, want %v", l.events, want)
	}
}

func TestTwoStreamsOfOneProxy(t *testing.T) {
	l := newLab(t, Config{})
	old := l.open("web/n1", xdsim.Mode{}, nil)
	l.known("web/n1")
	l.s.Set("web/n1", set(service("a", 1)))
	l.holds(old, xdsim.Route, "a")
	next := l.open("web/n1", xdsim.Mode{}, nil)
	l.holds(next, xdsim.Route, "a") // it has the set of its proxy without a new one
	l.s.Set("web/n1", set(service("b", 1)))
	l.holds(old, xdsim.Cluster, "b")
	l.holds(next, xdsim.Cluster, "b")
	old.Close()
	l.known("web/n1")
	l.s.Set("web/n1", set(service("c", 1)))
	l.holds(next, xdsim.Cluster, "c")
	l.fine(old, next)
}

func TestRefusals(t *testing.T) {
	l := newLab(t, Config{Identify: func(_ context.Context, n *corev3.Node) (string, error) {
		switch n.GetId() {
		case "stranger":
			return "", errors.New("this socket is not stranger's")
		case "expired":
			return "", status.Error(codes.Unauthenticated, "its certificate has expired")
		}
		return n.GetId(), nil
	}})
	for _, c := range []struct {
		node *corev3.Node
		want codes.Code
		says string
	}{
		{nil, codes.InvalidArgument, "node.id"},
		{&corev3.Node{}, codes.InvalidArgument, "node.id"},
		{node("stranger"), codes.PermissionDenied, "not stranger's"},
		{node("expired"), codes.Unauthenticated, "expired"},
	} {
		cl, err := xdsim.Open(l.ctx, l.conn(), c.node, xdsim.Mode{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		<-cl.Done()
		if err := cl.Err(); status.Code(err) != c.want || !strings.Contains(err.Error(), c.says) {
			t.Errorf("node %v: %v", c.node, err)
		}
	}
	g, err := discovery.NewAggregatedDiscoveryServiceClient(l.conn()).StreamAggregatedResources(l.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = g.Recv(); status.Code(err) != codes.Unimplemented || !strings.Contains(err.Error(), "DELTA_GRPC") {
		t.Errorf("state of the world: %v", err)
	}
	for _, second := range []*discovery.DeltaDiscoveryRequest{
		{TypeUrl: xdsim.Cluster, Node: node("other")},
		{},
	} {
		d, err := discovery.NewAggregatedDiscoveryServiceClient(l.conn()).DeltaAggregatedResources(l.ctx)
		if err != nil {
			t.Fatal(err)
		}
		_ = d.Send(&discovery.DeltaDiscoveryRequest{Node: node("one"), TypeUrl: xdsim.Cluster})
		_ = d.Send(second)
		if _, err = d.Recv(); status.Code(err) != codes.InvalidArgument {
			t.Errorf("second request %v: %v", second, err)
		}
	}
}

func TestAdmission(t *testing.T) {
	l := newLab(t, Config{MaxPending: 2, RetryAfter: 3 * time.Second})
	l.open("a", xdsim.Mode{}, nil)
	l.open("b", xdsim.Mode{}, nil)
	l.known("a", "b")
	c := l.open("c", xdsim.Mode{}, nil)
	<-c.Done()
	e := status.Convert(c.Err())
	if e.Code() != codes.ResourceExhausted || len(e.Details()) != 1 || e.Details()[0].(*errdetails.RetryInfo).RetryDelay.AsDuration() != 3*time.Second {
		t.Fatalf("third stream: %v %v", e, e.Details())
	}
	l.s.Set("a", set())
	l.open("c", xdsim.Mode{}, nil)
	l.known("a", "b", "c")
	for _, p := range l.s.Status() {
		l.s.Set(p.ID, set())
	}
	l.s.mu.Lock()
	defer l.s.mu.Unlock()
	if l.s.pending != 0 {
		t.Fatalf("%d streams pending, want none", l.s.pending)
	}
}

func TestOneRefusedResourceHoldsUpNothing(t *testing.T) {
	l := newLab(t, Config{})
	refuse := func(typ, name, _ string) string {
		if typ == xdsim.Cluster && name == "bad" {
			return "Error adding/updating cluster(s) bad: no"
		}
		return ""
	}
	one := l.open("one", xdsim.Mode{Nack: refuse}, nil)
	two := l.open("two", xdsim.Mode{Nack: refuse}, nil)
	l.known("one", "two")
	bad := service("bad", 1)
	bad.Resources = bad.Resources[:2]
	for _, id := range []string{"one", "two"} {
		l.s.Set(id, set(service("a", 1), bad, service("c", 1)))
	}
	l.holds(one, xdsim.Route, "a", "c")
	l.holds(two, xdsim.Route, "a", "c")
	l.until("two refusals", func() bool { return l.s.Status()[0].Nacks == 1 && l.s.Status()[1].Nacks == 1 })
	for _, c := range []*xdsim.Client{one, two} {
		for r, n := range c.Refused() {
			if n != 1 {
				t.Errorf("%s came %d times", r, n)
			}
		}
	}
	i := slices.IndexFunc(l.s.Status()[0].Types, func(ts delta.TypeStatus) bool { return ts.Type == xdsim.Cluster })
	if n := l.s.Status()[0].Types[i].Nacks; len(n) != 1 || n[0].Cause != "bad" || !strings.Contains(n[0].Words, "cluster(s) bad: no") {
		t.Errorf("status says %+v", n)
	}
	three := l.open("three", xdsim.Mode{Nack: refuse}, nil)
	l.known("one", "three", "two")
	l.s.Set("three", set(service("a", 1), bad))
	l.holds(three, xdsim.Route, "a")
	if r := three.Refused(); len(r) > 0 {
		t.Errorf("what two proxies refused was sent to a third: %v", r)
	}
	other, err := xdsim.Open(l.ctx, l.conn(), &corev3.Node{Id: "four", UserAgentName: "envoy", UserAgentVersionType: &corev3.Node_UserAgentVersion{UserAgentVersion: "1.41.0"}}, xdsim.Mode{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { other.Close() })
	l.known("four", "one", "three", "two")
	l.s.Set("four", set(service("a", 1), bad))
	l.holds(other, xdsim.Cluster, "a", "bad") // another version may read it
}

func TestLargeMessages(t *testing.T) {
	l := newLab(t, Config{})
	mode := xdsim.Mode{Types: []string{xdsim.Cluster}}
	c := l.open("big", mode, nil)
	l.known("big")
	g := &delta.Group{Key: "all"}
	for i := range 20000 {
		name := fmt.Sprintf("cluster-with-a-name-of-some-length-%05d", i)
		g.Resources = append(g.Resources, mk(delta.TypeCluster, name, &clusterv3.Cluster{Name: name}))
	}
	g.Resources = append(g.Resources, mk(delta.TypeCluster, "z-huge", &clusterv3.Cluster{Name: "z-huge", AltStatName: strings.Repeat("x", 20<<20)}))
	l.s.Set("big", set(g))
	all := func(h map[string]string) bool { return len(h) == 20001 }
	if err := c.Wait(l.ctx, xdsim.Cluster, all); err != nil {
		t.Fatal(err)
	}
	st := c.Close()
	l.until("closed", func() bool { return len(l.s.Status()) == 0 })
	again := l.open("big", mode, st) // names 20,001 versions in one request
	l.known("big")
	l.s.Set("big", set(g, service("zz", 1)))
	if err := again.Wait(l.ctx, xdsim.Cluster, func(h map[string]string) bool { return len(h) == 20002 }); err != nil {
		t.Fatal(err)
	}
	if n := again.Messages(); n != 1 {
		t.Errorf("%d messages after the reconnect, want 1", n)
	}
}

func TestClockOfAStream(t *testing.T) {
	t.Run("never acknowledged", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := newLab(t, Config{})
			start := time.Now()
			var lds time.Duration
			c := l.open("a", xdsim.Mode{NeverAck: true, Seen: func(m *discovery.DeltaDiscoveryResponse) {
				if m.TypeUrl == xdsim.Listener && lds == 0 {
					lds = time.Since(start)
				}
			}}, nil)
			l.known("a")
			l.s.Set("a", set(service("a", 1)))
			<-c.Done()
			if status.Code(c.Err()) != codes.DeadlineExceeded {
				t.Errorf("closed with %v", c.Err())
			}
			if took := time.Since(start); took < 60*time.Second || took > 61*time.Second {
				t.Errorf("closed after %v, want 60 s", took)
			}
			if lds < 15*time.Second || lds > 16*time.Second {
				t.Errorf("listeners came after %v, want 15 s", lds)
			}
		})
	})
	t.Run("never asks", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			l := newLab(t, Config{})
			start := time.Now()
			c := l.open("a", xdsim.Mode{Types: []string{xdsim.Listener}}, nil)
			<-c.Done()
			if took := time.Since(start); status.Code(c.Err()) != codes.DeadlineExceeded || took < 30*time.Second || took > 31*time.Second {
				t.Errorf("closed with %v after %v, want 30 s", c.Err(), took)
			}
		})
	})
}

func TestSlowClientsHoldUpNobody(t *testing.T) {
	l := newLab(t, Config{AckWithin: 3 * time.Second})
	// A client that reads nothing at all: flow control stops the server.
	dead, err := discovery.NewAggregatedDiscoveryServiceClient(l.conn()).DeltaAggregatedResources(l.ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, typ := range []string{xdsim.Cluster, xdsim.Secret} {
		_ = dead.Send(&discovery.DeltaDiscoveryRequest{Node: node("dead"), TypeUrl: typ})
	}
	quick := l.open("quick", xdsim.Mode{}, nil)
	l.known("dead", "quick")
	huge := func(v int) *delta.Group {
		return &delta.Group{Key: "huge", Resources: []*delta.Resource{delta.NewResource(delta.TypeSecret, "s", []byte(strings.Repeat("x", 1<<20)+fmt.Sprint(v)), nil)}}
	}
	for v := range 200 {
		want := set(huge(v), service("a", v))
		l.s.Set("dead", want)
		l.s.Set("quick", set(service("a", v)))
		version := want.Groups[1].Resources[1].Version
		if err := quick.Wait(l.ctx, xdsim.Endpoints, func(h map[string]string) bool { return h["a"] == version }); err != nil {
			t.Fatal(err)
		}
	}
	var row ProxyStatus
	for _, p := range l.s.Status() {
		if p.ID == "dead" {
			row = p
		}
	}
	if row.Messages > 3 {
		t.Errorf("%d messages were written to a client that reads nothing", row.Messages)
	}
	l.until("the dead one is closed", func() bool { return len(l.s.Status()) == 1 })
	l.fine(quick)
}

func TestCloseEndsStreams(t *testing.T) {
	l := newLab(t, Config{})
	c := l.open("a", xdsim.Mode{}, nil)
	l.known("a")
	l.s.Close()
	<-c.Done()
	if status.Code(c.Err()) != codes.Unavailable {
		t.Errorf("closed with %v", c.Err())
	}
}
