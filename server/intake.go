package server

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	keregev1 "github.com/kerege/kerege/api/kerege/v1"
	"github.com/kerege/kerege/ca"
	"github.com/kerege/kerege/mesh"
)

// What one node may cost the server, over all its connections. gRPC takes in
// what a message announces before anybody is asked, so it is counted on the wire.
const (
	unfinishedBytes = 32 << 20 // of messages that have begun and not ended
	pieceCost       = 128      // bytes that a piece of a message costs beside itself
	nodeConnections = 64
	nodeStreamsOpen = 1000 // a host's proxies have one each
	nodeCalls       = 128  // that are answered once: Sign, Peers
	nodeRefusals    = 2000 // of those, until the connection is closed
	callTime        = 30 * time.Second
	streamWindow    = 64 << 10 // bytes that a stream may be ahead of who reads it
)

// intakes counts what each node has open.
type intakes struct {
	refused func(node string, why error)

	mu    sync.Mutex
	nodes map[string]*intake
}

type intake struct {
	connections, streams, calls, held int

	refusals int // of streams and calls, since its last connection was closed for them
}

func newIntakes(refused func(string, error)) *intakes {
	return &intakes{refused: refused, nodes: map[string]*intake{}}
}

// add changes a node's counts, unless one would be over its limit.
func (a *intakes) add(node string, by intake) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := a.nodes[node]
	if n == nil {
		n = &intake{}
	}
	next := intake{n.connections + by.connections, n.streams + by.streams, n.calls + by.calls, n.held + by.held, n.refusals}
	switch {
	case by.connections > 0 && next.connections > nodeConnections:
		return fmt.Errorf("it has %d connections open", n.connections)
	case by.streams > 0 && next.streams > nodeStreamsOpen:
		n.refusals++
		return fmt.Errorf("it has %d streams open", n.streams)
	case by.calls > 0 && next.calls > nodeCalls:
		n.refusals++
		return fmt.Errorf("it has %d calls open", n.calls)
	case by.held > 0 && next.held > unfinishedBytes:
		return fmt.Errorf("it has sent %d MiB of messages that have no end", unfinishedBytes>>20)
	}
	*n = next
	if next.refusals = 0; next == (intake{}) {
		delete(a.nodes, node)
	} else {
		a.nodes[node] = n
	}
	return nil
}

// tap is where gRPC asks before a stream costs anything: what is answered once
// gets a deadline, which holds for reading the question, too.
func (a *intakes) tap(ctx context.Context, info *tap.Info) (context.Context, error) {
	one := intake{streams: 1}
	if method := info.FullMethodName; !strings.HasPrefix(method, "/envoy.") && method != keregev1.Node_Connect_FullMethodName {
		one = intake{calls: 1}
	}
	if node := certified(ctx); node != "" { // a stranger's connection has a budget
		if err := a.add(node, one); err != nil {
			return ctx, status.Error(codes.ResourceExhausted, "this node asks for too much at once: "+err.Error())
		}
		context.AfterFunc(ctx, func() { _ = a.add(node, intake{streams: -one.streams, calls: -one.calls}) })
	}
	if one.calls > 0 {
		limited, cancel := context.WithTimeout(ctx, callTime)
		context.AfterFunc(ctx, cancel)
		return limited, nil
	}
	return ctx, nil
}

// patience ends with a node that goes on asking for more than it may have open:
// what is refused costs something, too.
func (a *intakes) patience(node string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := a.nodes[node]
	if n == nil || n.refusals < nodeRefusals {
		return nil
	}
	n.refusals = 0
	return fmt.Errorf("%d streams and calls were refused it", nodeRefusals)
}

// certified is the name in the certificate of whoever calls, "" without one.
func certified(ctx context.Context) string {
	if p, ok := peer.FromContext(ctx); ok {
		if info, ok := p.AuthInfo.(credentials.TLSInfo); ok {
			return nameIn(info)
		}
	}
	return ""
}

func nameIn(info credentials.TLSInfo) string {
	if id, _, err := ca.Peer(info.State.PeerCertificates); err == nil {
		return id.Name
	}
	if len(info.State.PeerCertificates) > 0 {
		return "?" // the mesh's own CA has signed it, and it is no node
	}
	return ""
}

// metered is a node's connection: what it has sent of messages that it does not
// end counts, and over the budget the connection is closed.
type metered struct {
	net.Conn
	node string
	of   *intakes

	mu      sync.Mutex
	in, out frames
	open    map[uint32]*message // by stream
	last    uint32              // the highest stream that the node opened
	held    int                 // of this connection
	owed    int                 // change of held that of has not heard of
	asked   bool                // a stream was opened since patience was asked
	closed  bool
}

var errTooManyConnections = errors.New("a node has too many connections")

func (a *intakes) meter(conn net.Conn, node string) (net.Conn, error) {
	if err := a.add(node, intake{connections: 1}); err != nil {
		a.refused(node, err)
		return nil, errTooManyConnections
	}
	return &metered{Conn: conn, node: node, of: a, in: frames{skip: preface}, open: map[uint32]*message{}}, nil
}

// Read counts what the node sends.
func (c *metered) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n == 0 {
		return n, err
	}
	c.mu.Lock()
	why := c.in.read(b[:n], (*incoming)(c))
	if settled := c.settle(); why == nil {
		why = settled
	}
	if why == nil && c.asked {
		c.asked, why = false, c.of.patience(c.node)
	}
	over := why != nil && !c.closed
	c.mu.Unlock()
	if why != nil {
		if over {
			c.of.refused(c.node, why)
		}
		c.Close()
		return 0, fmt.Errorf("reading from node %s: %w", mesh.Quote(c.node), why)
	}
	return n, err
}

// Write sees which streams the server ends.
func (c *metered) Write(b []byte) (int, error) {
	c.mu.Lock()
	_ = c.out.read(b, (*outgoing)(c)) // its own frames are never padded
	_ = c.settle()                    // only ever less
	c.mu.Unlock()
	return c.Conn.Write(b)
}

// Close gives back what the connection held.
func (c *metered) Close() error {
	c.mu.Lock()
	if !c.closed {
		c.closed = true
		_ = c.of.add(c.node, intake{connections: -1, held: -c.held})
		c.held, c.owed = 0, 0
		clear(c.open)
	}
	c.mu.Unlock()
	return c.Conn.Close()
}

// settle tells of what has changed; mu is held.
func (c *metered) settle() error {
	by := c.owed
	if c.owed = 0; by == 0 || c.closed {
		return nil
	}
	err := c.of.add(c.node, intake{held: by})
	if err == nil {
		c.held += by
	}
	return err
}

func (c *metered) forget(stream uint32) {
	if m := c.open[stream]; m != nil {
		c.owed -= m.held
		delete(c.open, stream)
	}
}

// incoming is a metered connection's frames from the node. What comes of a stream
// that is not open gRPC does not keep.
type incoming metered

func (c *incoming) begun(stream uint32) {
	if stream > c.last && !c.closed {
		c.last, c.open[stream], c.asked = stream, &message{}, true
	}
}

func (c *incoming) framed(stream uint32, size int) {
	if m := c.open[stream]; m != nil {
		m.held += size + pieceCost
		c.owed += size + pieceCost
	}
}

func (c *incoming) came(stream uint32, b []byte) {
	if m := c.open[stream]; m != nil {
		c.owed -= m.take(b)
	}
}

func (c *incoming) ended(stream uint32) { (*metered)(c).forget(stream) }

// outgoing is what the server sends.
type outgoing metered

func (*outgoing) begun(uint32)          {}
func (*outgoing) framed(uint32, int)    {}
func (*outgoing) came(uint32, []byte)   {}
func (c *outgoing) ended(stream uint32) { (*metered)(c).forget(stream) }
