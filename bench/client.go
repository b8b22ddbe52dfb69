package main

import (
	"bytes"
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/kerege/kerege/e2e/xdsim"
)

// fleet is the client process: P Envoys, each with a connection of its own.
type fleet struct {
	shape    shape
	ids      func(i int) string
	clients  []*xdsim.Client
	nodes    *nodes // nil: plaintext
	bytes    atomic.Int64
	messages atomic.Int64
	watch    atomic.Pointer[watch]
}

// watch is what the fleet is looking for.
type watch struct {
	mark []byte // of the new instance's port, as it is in the bytes
	mu   sync.Mutex
	seen map[int]int64
	left int
	done chan struct{}
}

func runClient(flag flags) error {
	s := flag.shape
	f := &fleet{shape: s, clients: make([]*xdsim.Client, s.P), ids: func(i int) string {
		if flag.ids == "consul" {
			return proxyName(i) + "-proxy"
		}
		return proxyName(i) + "/" + nodeName(i)
	}}
	if flag.tls != "" {
		nodes, err := readNodes(flag.tls)
		if err != nil {
			return err
		}
		f.nodes = nodes
	}
	debug.SetGCPercent(400)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	took, err := f.connect(ctx, flag.addr)
	if err != nil {
		return err
	}
	say(answer{Took: took, Bytes: f.bytes.Load(), Messages: f.messages.Load()})
	serveOrders(func(o order) answer {
		if !o.Expect {
			a := answer{Bytes: f.bytes.Load(), Messages: f.messages.Load()}
			for i, c := range f.clients {
				for _, p := range c.Problems() {
					a.Problems = append(a.Problems, f.ids(i)+": "+p)
				}
				if err := c.Err(); err != nil {
					a.Problems = append(a.Problems, f.ids(i)+": "+err.Error())
				}
			}
			return a
		}
		return f.expect(o)
	})
	return nil
}

// connect opens every stream at once and waits until each has the endpoints of
// all its upstreams.
func (f *fleet) connect(ctx context.Context, addr string) (time.Duration, error) {
	start := time.Now()
	errs := make(chan error, f.shape.P)
	for i := range f.shape.P {
		go func() {
			errs <- func() error {
				conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(f.nodes.credentials(i)))
				if err != nil {
					return fmt.Errorf("connecting %s: %w", f.ids(i), err)
				}
				node := &corev3.Node{Id: f.ids(i), Cluster: proxyName(i), UserAgentName: "envoy", UserAgentVersionType: &corev3.Node_UserAgentBuildVersion{
					UserAgentBuildVersion: &corev3.BuildVersion{Version: &typev3.SemanticVersion{MajorNumber: 1, MinorNumber: 31}}}, Metadata: introduction}
				// A refused stream comes back, as Envoy would.
				for {
					c, err := xdsim.Open(ctx, conn, node, xdsim.Mode{Seen: func(m *discovery.DeltaDiscoveryResponse) { f.got(i, m) }}, nil)
					if err != nil {
						return err
					}
					f.clients[i] = c
					wait, cancel := context.WithTimeout(ctx, 10*time.Minute)
					err = c.Wait(wait, xdsim.Endpoints, func(h map[string]string) bool { return len(h) >= f.shape.U })
					cancel()
					if err == nil {
						return nil
					}
					if time.Since(start) > 10*time.Minute {
						return fmt.Errorf("waiting for %s: %w", f.ids(i), err)
					}
					time.Sleep(100 * time.Millisecond)
				}
			}()
		}()
	}
	for range f.shape.P {
		if err := <-errs; err != nil {
			return 0, err
		}
	}
	return time.Since(start), nil
}

// got runs on each stream for each message, after the client has decoded it.
func (f *fleet) got(i int, m *discovery.DeltaDiscoveryResponse) {
	now := time.Now().UnixNano()
	f.messages.Add(1)
	f.bytes.Add(int64(proto.Size(m)) + 5)
	w := f.watch.Load()
	if w == nil || m.GetTypeUrl() != xdsim.Endpoints {
		return
	}
	for _, r := range m.GetResources() {
		if !bytes.Contains(r.GetResource().GetValue(), w.mark) {
			continue
		}
		w.mu.Lock()
		if _, again := w.seen[i]; !again {
			w.seen[i] = now
			if w.left--; w.left == 0 {
				close(w.done)
			}
		}
		w.mu.Unlock()
		return
	}
}

// expect watches for an instance on o.Count streams. It says that it is ready to
// before it waits.
func (f *fleet) expect(o order) answer {
	_, port := instance(o.Service, o.N)
	w := &watch{mark: protowire.AppendVarint(protowire.AppendTag(nil, 3, protowire.VarintType), uint64(port)),
		seen: map[int]int64{}, left: o.Count, done: make(chan struct{})}
	f.watch.Store(w)
	runtime.GC() // the load generator's garbage is nobody's latency
	say(answer{Armed: true, Bytes: f.bytes.Load(), Messages: f.messages.Load()})
	a := answer{}
	select {
	case <-w.done:
	case <-time.After(o.Patience):
		w.mu.Lock()
		a.Err = fmt.Sprintf("%d of %d streams did not see instance %d of %s within %s", w.left, o.Count, o.N, serviceName(o.Service), o.Patience)
		w.mu.Unlock()
	}
	f.watch.Store(nil)
	time.Sleep(20 * time.Millisecond) // what comes on top counts as bytes, too
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, at := range w.seen {
		a.Seen = append(a.Seen, at)
	}
	a.Bytes, a.Messages = f.bytes.Load(), f.messages.Load()
	return a
}
