package relay

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	endpointv3 "github.com/envoyproxy/go-control-plane/envoy/config/endpoint/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/kerege/kerege/agent/seal"
	"github.com/kerege/kerege/e2e/xdsim"
	"github.com/kerege/kerege/xds/delta"
	"github.com/kerege/kerege/xds/serve"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const id = "web/n1"

// lab is a server, a relay and a place for Envoys, without a network.
type lab struct {
	t    *testing.T
	ctx  context.Context
	file string
	key  seal.Key

	up      *bufconn.Listener
	s       *serve.Server
	g       *grpc.Server
	upConn  *grpc.ClientConn
	set     *delta.Set
	setMu   sync.Mutex
	setWG   sync.WaitGroup
	p       *Proxy
	stop    func()
	down    *bufconn.Listener
	downG   *grpc.Server
	downEnd func()
}

func newLab(t *testing.T) *lab {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	l := &lab{t: t, ctx: ctx, file: t.TempDir() + "/web.state", key: seal.NewKey(), up: bufconn.Listen(1 << 20)}
	var err error
	l.upConn, err = grpc.NewClient("passthrough:///servers", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: backoff.Config{BaseDelay: 10 * time.Millisecond, Multiplier: 1.2, MaxDelay: 50 * time.Millisecond}, MinConnectTimeout: 100 * time.Millisecond}),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.server().DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		l.stopRelay()
		l.stopServer()
		l.upConn.Close()
		cancel()
	})
	return l
}

// server is where the server of the moment listens.
func (l *lab) server() *bufconn.Listener {
	l.setMu.Lock()
	defer l.setMu.Unlock()
	return l.up
}

// startServer starts a server that gives every proxy the lab's set.
func (l *lab) startServer() {
	c := serve.Config{
		Identify: func(_ context.Context, n *corev3.Node) (string, error) { return n.GetId(), nil },
	}
	var s *serve.Server
	c.Opened = func(id string, _ *corev3.Node) {
		l.setWG.Go(func() {
			l.setMu.Lock()
			defer l.setMu.Unlock()
			if l.set != nil {
				s.Set(id, l.set)
			}
		})
	}
	s = serve.New(c)
	l.s, l.g = s, grpc.NewServer(serve.ServerOptions()...)
	s.Register(l.g)
	l.setMu.Lock()
	l.up = bufconn.Listen(1 << 20)
	l.setMu.Unlock()
	g, up := l.g, l.up
	l.setWG.Go(func() { _ = g.Serve(up) })
}

func (l *lab) stopServer() {
	if l.s == nil {
		return
	}
	l.s.Close()
	l.g.Stop()
	l.s.Wait()
	l.setWG.Wait()
	l.s = nil
}

func (l *lab) want(groups ...*delta.Group) {
	slices.SortFunc(groups, func(a, b *delta.Group) int { return strings.Compare(a.Key, b.Key) })
	l.setMu.Lock()
	defer l.setMu.Unlock()
	l.set = &delta.Set{Groups: groups}
	if l.s != nil {
		l.s.Set(id, l.set)
	}
}

func (l *lab) startRelay() {
	l.p = New(Config{ID: id, Cluster: "web", File: l.file, Key: l.key, Servers: l.upConn, Metadata: map[string]any{"kerege": map[string]any{"inbound_port": 15006}}})
	ctx, cancel := context.WithCancel(l.ctx)
	l.down, l.downG = bufconn.Listen(1<<20), grpc.NewServer()
	l.p.Register(l.downG)
	var wg sync.WaitGroup
	p, down, g := l.p, l.down, l.downG
	wg.Go(func() { p.Run(ctx) })
	wg.Go(func() { _ = g.Serve(down) })
	l.stop = func() {
		cancel()
		g.Stop()
		wg.Wait()
		p.Wait()
	}
}

func (l *lab) stopRelay() {
	if l.stop != nil {
		l.stop()
		l.stop = nil
	}
}

// envoy connects a client as Envoy does.
func (l *lab) envoy(m xdsim.Mode, st *xdsim.State) *xdsim.Client { return l.envoyAs(id, m, st) }

func (l *lab) envoyAs(id string, m xdsim.Mode, st *xdsim.State) *xdsim.Client {
	l.t.Helper()
	down := l.down
	conn, err := grpc.NewClient("passthrough:///agent", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return down.DialContext(ctx) }))
	if err != nil {
		l.t.Fatal(err)
	}
	n := &corev3.Node{Id: id, UserAgentName: "envoy", UserAgentVersionType: &corev3.Node_UserAgentVersion{UserAgentVersion: "1.40.0"}}
	c, err := xdsim.Open(l.ctx, conn, n, m, st)
	if err != nil {
		l.t.Fatal(err)
	}
	l.t.Cleanup(func() { c.Close(); conn.Close() })
	return c
}

func (l *lab) until(what string, ok func() bool) {
	l.t.Helper()
	for range 2000 {
		if ok() {
			return
		}
		time.Sleep(5 * time.Millisecond)
	}
	l.t.Fatalf("%s: not in time; relay %+v", what, l.p.Status())
}

func (l *lab) holds(c *xdsim.Client, typ string, names ...string) {
	l.t.Helper()
	err := c.Wait(l.ctx, typ, func(h map[string]string) bool {
		for _, n := range names {
			if h[n] == "" {
				return false
			}
		}
		return len(h) == len(names)
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

// row is the server's row of the proxy; the zero row: not connected.
func (l *lab) row() serve.ProxyStatus {
	for _, p := range l.s.Status() {
		if p.ID == id {
			return p
		}
	}
	return serve.ProxyStatus{}
}

func (l *lab) serverState(typ string) delta.TypeStatus {
	for _, ts := range l.row().Types {
		if ts.Type == typ {
			return ts
		}
	}
	return delta.TypeStatus{}
}

// version of a resource that the server has from its client, "": none.
func (l *lab) told(typ, name string) string { return l.serverState(typ).Versions[name] }

var adsSource = &corev3.ConfigSource{ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}}}

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

func cluster(name string, v int) *delta.Resource {
	return mk(delta.TypeCluster, name, &clusterv3.Cluster{Name: name, AltStatName: fmt.Sprint(v), EdsClusterConfig: &clusterv3.Cluster_EdsClusterConfig{EdsConfig: adsSource}})
}

func endpoints(name string, v int) *delta.Resource {
	return mk(delta.TypeEndpoints, name, &endpointv3.ClusterLoadAssignment{ClusterName: name, Endpoints: []*endpointv3.LocalityLbEndpoints{{Priority: uint32(v)}}})
}

func route(name string, v int) *delta.Resource {
	return mk(delta.TypeRoute, name, &routev3.RouteConfiguration{Name: name, VirtualHosts: []*routev3.VirtualHost{{Name: fmt.Sprint(v), Domains: []string{"*"}, Routes: []*routev3.Route{{
		Action: &routev3.Route_Route{Route: &routev3.RouteAction{ClusterSpecifier: &routev3.RouteAction_Cluster{Cluster: name}}}}}}}})
}

func listener(name string, v int) *delta.Resource {
	return mk(delta.TypeListener, name, &listenerv3.Listener{Name: name, StatPrefix: fmt.Sprint(v), FilterChains: []*listenerv3.FilterChain{{Filters: []*listenerv3.Filter{{
		ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: anyOf(&hcmv3.HttpConnectionManager{
			RouteSpecifier: &hcmv3.HttpConnectionManager_Rds{Rds: &hcmv3.Rds{RouteConfigName: name, ConfigSource: adsSource}},
			HttpFilters: []*hcmv3.HttpFilter{{Name: "rbac:" + name, ConfigType: &hcmv3.HttpFilter_ConfigDiscovery{
				ConfigDiscovery: &corev3.ExtensionConfigSource{ConfigSource: adsSource}}}},
		})}}}}}})
}

func endpointsOf(v int) proto.Message { return &endpointv3.LocalityLbEndpoints{Priority: uint32(v)} }

func extension(name string, v int) *delta.Resource {
	return mk(delta.TypeExtension, "rbac:"+name, &corev3.TypedExtensionConfig{Name: "rbac:" + name, TypedConfig: anyOf(endpointsOf(v))})
}

func group(name string, v int) *delta.Group {
	return &delta.Group{Key: "upstream/" + name, Resources: []*delta.Resource{cluster(name, v), endpoints(name, v), listener(name, 1), route(name, v), extension(name, v)}}
}
