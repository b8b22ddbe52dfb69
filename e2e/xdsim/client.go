// Package xdsim is a delta xDS client that behaves like Envoy, or badly, for
// tests and benchmarks.
//
// Promises: its bookkeeping is its own and shares no code with xds/delta, so
// that one mistake cannot hide in both; every goroutine ends with Close.
package xdsim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Mode says how a client behaves. The zero value behaves like Envoy.
type Mode struct {
	// Nack says, for a resource, why the client refuses it; "": it accepts.
	Nack func(typ, name, version string) string
	// NeverAck leaves every message unanswered.
	NeverAck bool
	// Slow is waited before each message is read.
	Slow time.Duration
	// Follow is off: nothing is subscribed to but what Subscribe says.
	Manual bool
	// Types limits what is followed; nil: all.
	Types []string
	// Seen is called for each message, after it was applied and before it is
	// answered.
	Seen func(*discovery.DeltaDiscoveryResponse)
}

// State is what a client holds; it may be carried to the next stream.
type State struct {
	held map[string]map[string]held // type, name
}

type held struct {
	version string
	needs   []need
}

// need is a resource that another one names.
type need struct{ typ, name string }

// Client is one stream.
type Client struct {
	mode   Mode
	node   *corev3.Node
	stream discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesClient
	cancel context.CancelFunc
	done   chan struct{}

	mu       sync.Mutex
	changed  *sync.Cond
	state    *State
	subs     map[string]map[string]bool
	asked    map[string]bool
	nodeSent bool
	stale    bool // what is needed may have changed
	messages int
	nacked   map[string]int // type/name@version: times that it came and was refused
	problems []string
	err      error
}

// Open opens a stream on a connection and, unless the mode is manual, asks for
// all clusters and listeners. state is that of an earlier stream, or nil.
func Open(ctx context.Context, conn grpc.ClientConnInterface, node *corev3.Node, mode Mode, state *State) (*Client, error) {
	ctx, cancel := context.WithCancel(ctx)
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx, grpc.MaxCallRecvMsgSize(64<<20), grpc.MaxCallSendMsgSize(64<<20))
	if err != nil {
		cancel()
		return nil, fmt.Errorf("opening xDS stream: %w", err)
	}
	if state == nil {
		state = &State{held: map[string]map[string]held{}}
	}
	c := &Client{mode: mode, node: node, stream: stream, cancel: cancel, done: make(chan struct{}), state: state,
		subs: map[string]map[string]bool{}, asked: map[string]bool{}, nacked: map[string]int{}}
	c.changed = sync.NewCond(&c.mu)
	if !mode.Manual {
		c.mu.Lock()
		for _, t := range []string{Cluster, Listener} {
			if c.follows(t) {
				c.request(t, []string{"*"}, nil)
			}
		}
		c.follow()
		c.mu.Unlock()
	}
	go c.run()
	return c, nil
}

// Close ends the stream and returns what the client holds.
func (c *Client) Close() *State {
	c.cancel()
	<-c.done
	return c.state
}

// Done is closed when the stream has ended.
func (c *Client) Done() <-chan struct{} { return c.done }

// Err is why the stream ended; nil while it is open or when Close ended it.
func (c *Client) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Subscribe asks for names of a type, and gives others up.
func (c *Client) Subscribe(typ string, names, give []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.request(typ, names, give)
}

// Held are the versions that the client holds of a type, by name.
func (c *Client) Held(typ string) map[string]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.held(typ)
}

func (c *Client) held(typ string) map[string]string {
	out := map[string]string{}
	for n, h := range c.state.held[typ] {
		out[n] = h.version
	}
	return out
}

// Messages is how many came.
func (c *Client) Messages() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.messages
}

// Problems are the promises that the server broke: what was sent twice in one
// message, or names what the client has not been sent.
func (c *Client) Problems() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.problems)
}

// Refused counts the times that each resource came and was refused.
func (c *Client) Refused() map[string]int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.nacked)
}

// Wait waits until ok is true of what the client holds of a type. It fails when
// the stream or ctx ends first.
func (c *Client) Wait(ctx context.Context, typ string, ok func(held map[string]string) bool) error {
	stop := context.AfterFunc(ctx, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.changed.Broadcast()
	})
	defer stop()
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		now := c.held(typ)
		switch {
		case ok(now):
			return nil
		case c.err != nil:
			return fmt.Errorf("waiting for %s: %w", typ, c.err)
		case ctx.Err() != nil:
			return fmt.Errorf("waiting for %s, holding %v: %w", typ, now, ctx.Err())
		}
		c.changed.Wait()
	}
}

func (c *Client) follows(typ string) bool {
	return c.mode.Types == nil || slices.Contains(c.mode.Types, typ)
}

// request sends a subscription; mu is held.
func (c *Client) request(typ string, names, give []string) {
	req := &discovery.DeltaDiscoveryRequest{TypeUrl: typ, ResourceNamesSubscribe: names, ResourceNamesUnsubscribe: give}
	if c.subs[typ] == nil {
		c.subs[typ] = map[string]bool{}
	}
	for _, n := range names {
		c.subs[typ][n] = true
	}
	for _, n := range give {
		delete(c.subs[typ], n)
	}
	for n := range c.state.held[typ] {
		if !c.subs[typ]["*"] && !c.subs[typ][n] {
			delete(c.state.held[typ], n)
		}
	}
	if !c.asked[typ] {
		c.asked[typ] = true
		if held := c.held(typ); len(held) > 0 {
			req.InitialResourceVersions = held
		}
		if slices.Equal(names, []string{"*"}) && len(give) == 0 {
			req.ResourceNamesSubscribe = nil // as Envoy says it
		}
	}
	c.write(req)
}

func (c *Client) write(req *discovery.DeltaDiscoveryRequest) {
	if !c.nodeSent {
		req.Node, c.nodeSent = c.node, true
	}
	if err := c.stream.Send(req); err != nil && !errors.Is(err, io.EOF) {
		c.problems = append(c.problems, "sending: "+err.Error())
	}
}

func (c *Client) run() {
	defer close(c.done)
	for {
		if c.mode.Slow > 0 {
			select {
			case <-time.After(c.mode.Slow):
			case <-c.stream.Context().Done():
			}
		}
		m, err := c.stream.Recv()
		if err != nil {
			c.mu.Lock()
			if status.Code(err) != codes.Canceled {
				c.err = err
			}
			c.changed.Broadcast()
			c.mu.Unlock()
			return
		}
		c.mu.Lock()
		c.messages++
		words := c.apply(m)
		c.mu.Unlock()
		if c.mode.Seen != nil {
			c.mode.Seen(m)
		}
		c.mu.Lock()
		if !c.mode.Manual && c.stale {
			c.follow()
			c.stale = false
		}
		if !c.mode.NeverAck {
			ack := &discovery.DeltaDiscoveryRequest{TypeUrl: m.GetTypeUrl(), ResponseNonce: m.GetNonce()}
			if words != "" {
				ack.ErrorDetail = &rpcstatus.Status{Code: int32(codes.Internal), Message: words}
			}
			c.write(ack)
		}
		c.changed.Broadcast()
		c.mu.Unlock()
	}
}

// apply takes a message in and returns why it is refused. As in Envoy the good
// resources of a refused message of clusters or listeners are kept.
func (c *Client) apply(m *discovery.DeltaDiscoveryResponse) (words string) {
	typ := m.GetTypeUrl()
	if c.state.held[typ] == nil {
		c.state.held[typ] = map[string]held{}
	}
	if m.GetNonce() == "" {
		c.problem("a message of %s has no nonce", typ)
	}
	seen := map[string]bool{}
	for _, r := range m.GetResources() {
		name, version := r.GetName(), r.GetVersion()
		if seen[name] {
			c.problem("%s %s is twice in one message", typ, name)
		}
		seen[name] = true
		if c.mode.Nack != nil {
			if why := c.mode.Nack(typ, name, version); why != "" {
				c.nacked[typ+"/"+name+"@"+version]++
				words += why + "\n"
				continue
			}
		}
		needs, err := needs(r.GetResource())
		if err != nil {
			words += fmt.Sprintf("%s: %v\n", name, err)
			continue
		}
		c.stale = c.stale || len(needs) > 0 || len(c.state.held[typ][name].needs) > 0
		c.state.held[typ][name] = held{version: version, needs: needs}
		for _, n := range needs {
			if _, ok := c.state.held[Cluster][n.name]; n.typ == Cluster && !ok && c.subs[Cluster]["*"] {
				c.problem("%s %s names cluster %s, which was not sent", typ, name, n.name)
			}
		}
	}
	for _, name := range m.GetRemovedResources() {
		_, had := c.state.held[typ][name]
		delete(c.state.held[typ], name)
		c.stale = true
		for other, hs := range c.state.held {
			for n, h := range hs {
				if had && slices.Contains(h.needs, need{typ, name}) {
					c.problem("%s %s was removed, and %s %s names it", typ, name, other, n)
				}
			}
		}
	}
	return words
}

func (c *Client) problem(format string, args ...any) {
	if len(c.problems) < 100 {
		c.problems = append(c.problems, fmt.Sprintf(format, args...))
	}
}

// follow subscribes to what the held resources name and gives up the rest.
func (c *Client) follow() {
	want := map[need]bool{}
	for _, hs := range c.state.held {
		for _, h := range hs {
			for _, n := range h.needs {
				want[n] = true
			}
		}
	}
	for _, typ := range []string{Endpoints, Route, Extension, Secret} {
		if !c.follows(typ) {
			continue
		}
		var add, give []string
		for n := range want {
			if n.typ == typ && !c.subs[typ][n.name] {
				add = append(add, n.name)
			}
		}
		for name := range c.subs[typ] {
			if !want[need{typ, name}] {
				give = append(give, name)
			}
		}
		if len(add)+len(give) > 0 {
			slices.Sort(add)
			slices.Sort(give)
			c.request(typ, add, give)
		}
	}
}
