package main

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/kerege/kerege/xds/delta"
	"github.com/kerege/kerege/xds/serve"
)

// adsOnly is kerege's ADS fed with ready sets that carry what the floor carries:
// what is between it and the floor is the protocol's share alone.
type adsOnly struct {
	shape  shape
	ads    *serve.Server
	mu     sync.Mutex
	floor  floor // makes the endpoints
	groups []*delta.Group
	open   map[int]string
}

func runADS(s shape, first func()) error {
	a := &adsOnly{shape: s, floor: floor{extra: map[int][]int{}}, groups: make([]*delta.Group, s.S), open: map[int]string{}}
	for k := range s.S {
		a.groups[k] = a.group(k)
	}
	a.ads = serve.New(serve.Config{
		MaxPending: 2 * s.P,
		Identify:   func(_ context.Context, n *corev3.Node) (string, error) { return n.GetId(), nil },
		Opened: func(id string, n *corev3.Node) {
			a.mu.Lock()
			defer a.mu.Unlock()
			i, _ := strconv.Atoi(strings.TrimPrefix(n.GetCluster(), "web-"))
			a.open[i] = id
			a.ads.Set(id, a.set(i))
		},
	})
	g := grpc.NewServer(serve.ServerOptions()...)
	a.ads.Register(g)
	lis, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	go func() { _ = g.Serve(lis) }()
	say(answer{Addr: lis.Addr().String()})
	serveOrders(func(o order) answer { first(); return a.change(o) })
	g.Stop()
	return nil
}

// group is a service's cluster, kept, and its endpoints, made anew.
func (a *adsOnly) group(k int) *delta.Group {
	name := serviceName(k)
	eds := a.floor.endpoints("", name).GetResources()[0].GetResource()
	g := &delta.Group{Key: name}
	if old := a.groups[k]; old != nil {
		g.Resources = append(g.Resources, old.Resources[0])
	} else {
		b, err := proto.MarshalOptions{Deterministic: true}.Marshal(&clusterv3.Cluster{Name: name, EdsClusterConfig: &clusterv3.Cluster_EdsClusterConfig{EdsConfig: overADS}})
		if err != nil {
			panic(err) // a message that we made ourselves
		}
		g.Resources = append(g.Resources, delta.NewResource(delta.TypeCluster, name, b, nil))
	}
	g.Resources = append(g.Resources, delta.NewResource(delta.TypeEndpoints, name, eds.GetValue(), nil))
	return g
}

func (a *adsOnly) set(i int) *delta.Set {
	out := &delta.Set{}
	for _, k := range a.shape.upstreams(i) {
		out.Groups = append(out.Groups, a.groups[k])
	}
	slices.SortFunc(out.Groups, func(x, y *delta.Group) int { return strings.Compare(x.Key, y.Key) })
	return out
}

func (a *adsOnly) change(o order) answer {
	at := time.Now().UnixNano()
	a.mu.Lock()
	defer a.mu.Unlock()
	if o.Remove {
		a.floor.extra[o.Service] = nil
	} else {
		a.floor.extra[o.Service] = append(a.floor.extra[o.Service], o.N)
	}
	a.groups[o.Service] = a.group(o.Service)
	for i := range a.shape.dependents(o.Service) {
		a.ads.Set(a.open[i], a.set(i))
	}
	return answer{At: at}
}
