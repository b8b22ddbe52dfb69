package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"

	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/plan"
	"github.com/kerege/kerege/registry"
	consulsource "github.com/kerege/kerege/registry/consul"
	"github.com/kerege/kerege/server"
	"github.com/kerege/kerege/xds/serve"
)

// subject is kerege's own road from a registry to the streams: hub, the server's
// planner, ADS.
type subject struct {
	hub     *registry.Hub
	ads     *serve.Server
	planner *server.Planner
	source  *memory
}

// runKerege serves from a registry in memory, or from the Consul at an address.
func runKerege(s shape, consulAt string, first func()) error {
	k := &subject{hub: registry.New(registry.Options{}), source: newMemory(s)}
	if err := k.hub.Members().Put(members(s)...); err != nil {
		return err
	}
	sources := []registry.Source{k.source}
	if consulAt != "" {
		k.source.silent = true
		c, err := consulsource.New(consulsource.Options{Address: consulAt, Wanted: k.hub.Wanted})
		if err != nil {
			return err
		}
		sources = append(sources, c)
	}
	k.ads = serve.New(serve.Config{
		MaxPending: 2 * s.P,
		Identify:   func(_ context.Context, n *corev3.Node) (string, error) { return n.GetId(), nil },
		Opened:     k.opened,
		Closed:     k.closed,
	})
	k.planner = server.NewPlanner(hclog.NewNullLogger(), k.ads)
	g := grpc.NewServer(serve.ServerOptions()...)
	k.ads.Register(g)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	hubErr := make(chan error, 1)
	wg.Go(func() { hubErr <- k.hub.Run(ctx, sources...) })
	wg.Go(func() { _ = k.planner.Run(ctx, k.hub) }) // ends with ctx only
	wg.Go(func() { _ = g.Serve(lis) })
	select {
	case <-k.hub.Ready():
	case err := <-hubErr:
		cancel()
		return errors.Join(errors.New("the hub ended"), err)
	}
	say(answer{Addr: lis.Addr().String()})
	serveOrders(func(o order) answer { first(); return k.source.change(o) })
	g.Stop()
	cancel()
	wg.Wait()
	return nil
}

func (k *subject) opened(id string, _ *corev3.Node) {
	if pid, err := mesh.ParseProxyID(id); err == nil {
		k.planner.Open(plan.Node{ID: pid, InboundPort: 15006, OutboundPort: 15001})
	}
}

func (k *subject) closed(id string, left int) {
	if pid, err := mesh.ParseProxyID(id); err == nil && left == 0 {
		k.planner.Close(pid)
	}
}

// memory is a registry that changes when it is told to.
type memory struct {
	shape   shape
	changes chan mesh.Part
	extra   map[int][]int
	silent  bool // of the services: another registry has them
}

func newMemory(s shape) *memory {
	return &memory{shape: s, changes: make(chan mesh.Part), extra: map[int][]int{}}
}

// Name is the name of the source.
func (m *memory) Name() string { return "memory" }

// Watch reports the mesh and then what changes.
func (m *memory) Watch(ctx context.Context, out chan<- mesh.Part) error {
	send := func(p mesh.Part) bool {
		select {
		case out <- p:
			return true
		case <-ctx.Done():
			return false
		}
	}
	for k := range m.shape.S {
		if !m.silent {
			send(m.part(k))
		}
	}
	for i := range m.shape.P {
		send(mesh.Part{Source: "memory", Scope: proxyName(i), Instances: []mesh.Instance{proxyInstance(i)}})
	}
	send(settings(m.shape))
	send(mesh.Part{Source: "memory"})
	for {
		select {
		case p := <-m.changes:
			send(p)
		case <-ctx.Done():
			return nil
		}
	}
}

func (m *memory) part(k int) mesh.Part {
	p := mesh.Part{Source: "memory", Scope: serviceName(k)}
	for _, n := range append([]int{0, 1}, m.extra[k]...) {
		ip, port := instance(k, n)
		p.Instances = append(p.Instances, mesh.Instance{Service: mesh.ServiceName(serviceName(k)), ID: fmt.Sprint(n), Node: serverNode(n),
			Addr: netip.AddrPortFrom(netip.MustParseAddr(ip), uint16(port)), Protocol: mesh.ProtocolHTTP, Weight: 1})
	}
	return p
}

// proxyInstance is the workload that proxy i belongs to.
func proxyInstance(i int) mesh.Instance {
	return mesh.Instance{Service: mesh.ServiceName(proxyName(i)), ID: "1", Node: nodeName(i),
		Addr: netip.AddrPortFrom(netip.AddrFrom4([4]byte{11, byte(i >> 16), byte(i >> 8), byte(i)}), 8080), Protocol: mesh.ProtocolHTTP, Weight: 1}
}

func serverNode(n int) string { return fmt.Sprintf("server-%d", n%2) }

func (m *memory) change(o order) answer {
	if o.Remove {
		m.extra[o.Service] = nil
	} else {
		m.extra[o.Service] = append(m.extra[o.Service], o.N)
	}
	p := m.part(o.Service)
	at := time.Now().UnixNano()
	m.changes <- p
	return answer{At: at}
}

// settings are the mesh's own: each service may be called by the proxies that
// the shape says.
func settings(s shape) mesh.Part {
	callers := make([][]string, s.S)
	for i := range s.P {
		for _, k := range s.upstreams(i) {
			callers[k] = append(callers[k], proxyName(i))
		}
	}
	p := mesh.Part{Source: "file", Mesh: &mesh.Config{TrustDomain: trustDomain, DefaultIntention: mesh.ActionDeny},
		Bundle: []byte("-----BEGIN CERTIFICATE-----\nMA==\n-----END CERTIFICATE-----\n")}
	for k, from := range callers {
		p.Services = append(p.Services, mesh.ServiceConfig{Name: mesh.ServiceName(serviceName(k)),
			Ports: []mesh.Port{{Number: 80, Protocol: mesh.ProtocolHTTP}}})
		if len(from) > 0 {
			p.Intentions = append(p.Intentions, mesh.Intention{Label: serviceName(k), Rules: []mesh.Permission{{Action: mesh.ActionAllow, From: from}}})
		}
	}
	return p
}

func members(s shape) []mesh.Member {
	var out []mesh.Member
	for k := range s.S {
		for n := range 2 {
			out = append(out, mesh.Member{Service: mesh.ServiceName(serviceName(k)), Node: serverNode(n)})
		}
	}
	for i := range s.P {
		out = append(out, mesh.Member{Service: mesh.ServiceName(proxyName(i)), Node: nodeName(i)})
	}
	return out
}
