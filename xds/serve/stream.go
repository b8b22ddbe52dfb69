package serve

import (
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"github.com/kerege/kerege/xds/delta"
)

// stream is one client. Three goroutines: run (gRPC's own) watches the clock and
// ends it, receive reads, send writes. Only session is shared, under mu, and mu
// is never held while anything is sent.
type stream struct {
	server *Server
	grpc   discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer
	since  time.Time
	peer   string                    // address
	caller string                    // what Config.Peer calls it
	mail   atomic.Pointer[delta.Set] // the latest wish
	poked  chan struct{}
	end    chan error // why it ends; the first reason counts
	over   chan struct{}

	// Set by receive before the stream is in the table.
	id      string
	serial  uint64
	node    *corev3.Node
	version string // of Envoy
	opened  bool   // under server.hooks
	gone    bool   // under server.hooks

	mu      sync.Mutex
	session *delta.Session
	wanted  *delta.Set     // the wish that session has heard of
	next    *delta.Message // made, not yet taken by send
	wake    time.Time      // when send looks again
	count   Counters
}

// Counters of one stream.
type Counters struct {
	Messages, Bytes, Requests, Acks, Nacks uint64
	LastAnswer                             time.Time
}

func newStream(s *Server, g discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) *stream {
	st := &stream{server: s, grpc: g, since: s.cfg.Now(), poked: make(chan struct{}, 1), end: make(chan error, 2), over: make(chan struct{})}
	if p, ok := peer.FromContext(g.Context()); ok {
		st.peer = p.Addr.String()
	}
	st.session = delta.New(delta.Options{Gate: s.cfg.Gate, Nacked: st.nacked, Refused: st.refused})
	return st
}

func (st *stream) run() error {
	s := st.server
	if s.cfg.Peer != nil {
		var err error
		if st.caller, err = s.cfg.Peer(st.grpc.Context()); err != nil {
			s.cfg.Metrics.StreamRefused("identity")
			return err
		}
	}
	if why := s.admit(st); why != "" {
		s.cfg.Metrics.StreamRefused("pending")
		return st.comeBack(why)
	}
	s.cfg.Metrics.StreamOpened()
	s.wg.Add(2)
	go func() { defer s.wg.Done(); st.receive() }()
	go func() { defer s.wg.Done(); st.send() }()
	err := st.watch()
	close(st.over)
	s.leave(st)
	s.cfg.Metrics.StreamClosed()
	if err != nil {
		s.cfg.Logger.Info("stream closed", "proxy", st.id, "peer", st.peer, "reason", err)
	}
	return err
}

// watch returns when the stream must end, and why; nil: the client left.
func (st *stream) watch() error {
	cfg := &st.server.cfg
	timer := time.NewTimer(min(cfg.HelloWithin, cfg.AskWithin, cfg.AckWithin))
	defer timer.Stop()
	for {
		select {
		case err := <-st.end:
			return err
		case <-st.grpc.Context().Done():
			return nil
		case <-st.server.done:
			return status.Error(codes.Unavailable, "this server is going away")
		case <-timer.C:
		}
		now := cfg.Now()
		st.mu.Lock()
		unacked, asked, known := st.session.Unacked(), st.session.Asked(delta.TypeCluster), st.node != nil
		st.mu.Unlock()
		wait := cfg.AckWithin
		if !known {
			if now.Sub(st.since) >= cfg.HelloWithin {
				return status.Errorf(codes.DeadlineExceeded, "no first request within %s of opening the stream", cfg.HelloWithin)
			}
			wait = min(wait, cfg.HelloWithin-now.Sub(st.since))
		}
		if !asked {
			if now.Sub(st.since) >= cfg.AskWithin {
				return status.Errorf(codes.DeadlineExceeded, "no request for clusters within %s of opening the stream", cfg.AskWithin)
			}
			wait = min(wait, cfg.AskWithin-now.Sub(st.since))
		}
		if !unacked.IsZero() {
			if now.Sub(unacked) >= cfg.AckWithin {
				return status.Errorf(codes.DeadlineExceeded, "a message was not acknowledged within %s", cfg.AckWithin)
			}
			wait = min(wait, cfg.AckWithin-now.Sub(unacked))
		}
		timer.Reset(wait)
	}
}

func (st *stream) stop(err error) {
	select {
	case st.end <- err:
	default:
	}
}

func (st *stream) poke() {
	select {
	case st.poked <- struct{}{}:
	default:
	}
}

func (st *stream) receive() {
	for {
		req, err := st.grpc.Recv()
		if err != nil {
			if errors.Is(err, io.EOF) || status.Code(err) == codes.Canceled {
				err = nil
			}
			st.stop(err)
			return
		}
		if st.node == nil {
			err = st.introduce(req)
		} else if n := req.GetNode(); n != nil && n.GetId() != st.node.GetId() {
			err = status.Errorf(codes.InvalidArgument, "this stream is node %q, and a request says %q", st.node.GetId(), n.GetId())
		}
		if err == nil {
			err = st.handle(req)
		}
		if err != nil {
			st.stop(err)
			return
		}
	}
}

// introduce takes the first request, which says who speaks.
func (st *stream) introduce(req *discovery.DeltaDiscoveryRequest) error {
	s := st.server
	node := req.GetNode()
	if node.GetId() == "" {
		s.cfg.Metrics.StreamRefused("node")
		return status.Error(codes.InvalidArgument, "the first request of a stream must say which node it comes from (node.id)")
	}
	id, err := s.cfg.Identify(st.grpc.Context(), node)
	if err != nil {
		s.cfg.Metrics.StreamRefused("identity")
		if _, ok := status.FromError(err); ok {
			return err
		}
		return status.Error(codes.PermissionDenied, err.Error())
	}
	st.mu.Lock()
	st.id, st.node, st.version = id, node, envoyVersion(node)
	st.mu.Unlock()
	s.open(st)
	return nil
}

func envoyVersion(n *corev3.Node) string {
	if v := n.GetUserAgentBuildVersion().GetVersion(); v != nil {
		return fmt.Sprintf("%s %d.%d.%d", n.GetUserAgentName(), v.GetMajorNumber(), v.GetMinorNumber(), v.GetPatch())
	}
	return n.GetUserAgentName() + " " + n.GetUserAgentVersion()
}

// handle gives a request to the session. Most are acknowledgements after which
// there is nothing to do: then send is left asleep.
func (st *stream) handle(req *discovery.DeltaDiscoveryRequest) error {
	now := st.server.cfg.Now()
	st.mu.Lock()
	defer st.mu.Unlock()
	st.count.Requests++
	if req.GetResponseNonce() != "" {
		nack := req.GetErrorDetail() != nil
		if nack {
			st.count.Nacks++
		} else {
			st.count.Acks++
		}
		st.count.LastAnswer = now
		st.server.cfg.Metrics.Answered(req.GetTypeUrl(), nack)
	}
	if err := st.session.Receive(now, req); err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	before := st.wake
	st.fill(now)
	if st.next != nil || !st.wake.IsZero() && (before.IsZero() || st.wake.Before(before)) {
		st.poke()
	}
	return nil
}

// fill makes the next message unless one waits already. mu is held.
func (st *stream) fill(now time.Time) {
	if st.next == nil {
		st.wanted = st.mail.Load()
		st.session.Want(st.wanted)
		st.next, st.wake = st.session.NextMessage(now)
	}
}

// take is the next message to send, or how long to sleep; 0: until poked.
func (st *stream) take() (*delta.Message, time.Duration) {
	now := st.server.cfg.Now()
	st.mu.Lock()
	defer st.mu.Unlock()
	st.fill(now)
	m := st.next
	st.next = nil
	if m != nil || st.wake.IsZero() {
		return m, 0
	}
	return nil, max(st.wake.Sub(now), time.Millisecond)
}

func (st *stream) send() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		m, sleep := st.take()
		if m != nil {
			if err := st.write(m); err != nil {
				st.stop(err)
				return
			}
			continue
		}
		var wake <-chan time.Time
		if sleep > 0 {
			timer.Reset(sleep)
			wake = timer.C
		}
		select {
		case <-st.poked:
		case <-wake:
		case <-st.over:
			return
		}
	}
}

func (st *stream) write(m *delta.Message) error {
	f := freeze(m)
	n := f.bufs.Len()
	if err := st.grpc.SendMsg(f); err != nil {
		return fmt.Errorf("sending %s to %s: %w", m.Type, st.id, err)
	}
	st.server.cfg.Metrics.Sent(m.Type, len(m.Resources), n)
	st.mu.Lock()
	st.count.Messages++
	st.count.Bytes += uint64(n)
	st.mu.Unlock()
	return nil
}
