package relay

import (
	"errors"
	"fmt"
	"io"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kerege/kerege/xds/delta"
)

// ackWithin closes the stream of an Envoy that does not answer; it opens a new one.
const ackWithin = time.Minute

// Register adds the discovery service of this proxy to the gRPC server on its
// socket.
func (p *Proxy) Register(g grpc.ServiceRegistrar) {
	discovery.RegisterAggregatedDiscoveryServiceServer(g, &ads{proxy: p})
}

type ads struct {
	discovery.UnimplementedAggregatedDiscoveryServiceServer
	proxy *Proxy
}

func (a *ads) StreamAggregatedResources(discovery.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	return status.Error(codes.Unimplemented, "only delta xDS is served here: set api_type to DELTA_GRPC in Envoy's ads_config")
}

// stream is one Envoy's; two are open while one Envoy takes another's place.
// session is under the proxy's mu.
type stream struct {
	proxy   *Proxy
	grpc    discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer
	session *delta.Session
	poked   chan struct{}
	since   time.Time
	nacks   []delta.Nack // of the request in hand
}

func (st *stream) poke() { poke(st.poked) }

// DeltaAggregatedResources serves one Envoy.
func (a *ads) DeltaAggregatedResources(g discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	p := a.proxy
	req, err := g.Recv()
	if err != nil {
		return err
	}
	if id := req.GetNode().GetId(); id != p.cfg.ID {
		p.log.Warn("a stranger on a proxy's socket is refused", "proxy", p.cfg.ID, "says it is", fmt.Sprintf("%.200q", id))
		return status.Errorf(codes.PermissionDenied, "this socket belongs to the proxy %q; a node that says it is %.200q is not served here", p.cfg.ID, id)
	}
	st := &stream{proxy: p, grpc: g, poked: make(chan struct{}, 1), since: time.Now()}
	st.session = delta.New(delta.Options{Nacked: func(n delta.Nack) { st.nacks = append(st.nacks, n) }})
	p.join(st, req.GetNode())
	defer p.part(st)
	// Both end when this returns: gRPC then ends Recv and Send.
	end, over := make(chan error, 2), make(chan struct{})
	p.readers.Go(func() { end <- st.receive(req) })
	p.readers.Go(func() {
		if err := st.send(over); err != nil {
			end <- err
		}
	})
	defer close(over)
	return st.watch(end)
}

// watch returns when the stream must end, and why; nil: the client left.
func (st *stream) watch(end <-chan error) error {
	tick := time.NewTicker(ackWithin / 12)
	defer tick.Stop()
	for {
		select {
		case err := <-end:
			return err
		case <-st.grpc.Context().Done():
			return nil
		case <-tick.C:
		}
		st.proxy.mu.Lock()
		at := st.session.Unacked()
		st.proxy.mu.Unlock()
		if !at.IsZero() && time.Since(at) >= ackWithin {
			return status.Errorf(codes.DeadlineExceeded, "a message was not acknowledged within %s", ackWithin)
		}
	}
}

func (p *Proxy) join(st *stream, node *corev3.Node) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	p.streams[st] = struct{}{}
	if v := version(node); v != p.envoy {
		p.envoy = v
		p.view.forgive(now)
		if p.up != nil && p.up.envoy != v {
			p.up.again = true
			p.up.cancel() // a server knows what this version refuses: it must hear which one it is
		}
	}
	if p.begun {
		st.session.Want(p.view.set)
	}
	p.log.Info("Envoy connected", "proxy", p.cfg.ID, "version", p.envoy, "source", p.source)
	p.advance(now)
}

func (p *Proxy) part(st *stream) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.streams, st)
	p.log.Info("Envoy disconnected", "proxy", p.cfg.ID)
	p.advance(time.Now())
}

func version(n *corev3.Node) string {
	if v := n.GetUserAgentBuildVersion().GetVersion(); v != nil {
		return fmt.Sprintf("%d.%d.%d", v.GetMajorNumber(), v.GetMinorNumber(), v.GetPatch())
	}
	return n.GetUserAgentVersion()
}

// receive handles requests until the client leaves or breaks the protocol.
func (st *stream) receive(req *discovery.DeltaDiscoveryRequest) error {
	for {
		if err := st.handle(req); err != nil {
			return status.Error(codes.InvalidArgument, err.Error())
		}
		var err error
		if req, err = st.grpc.Recv(); err != nil {
			if errors.Is(err, io.EOF) || status.Code(err) == codes.Canceled {
				return nil
			}
			return err
		}
		if n := req.GetNode(); n != nil && n.GetId() != st.proxy.cfg.ID {
			return status.Errorf(codes.PermissionDenied, "this stream is %q, and a request says %.200q", st.proxy.cfg.ID, n.GetId())
		}
	}
}

func (st *stream) handle(req *discovery.DeltaDiscoveryRequest) error {
	p := st.proxy
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if err := st.session.Receive(now, req); err != nil {
		return err
	}
	for _, n := range st.nacks {
		p.refused(n)
	}
	st.nacks = st.nacks[:0]
	st.poke()
	p.advance(now)
	return nil
}

// send writes messages until the stream ends.
func (st *stream) send(over <-chan struct{}) error {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		m, wake := st.next()
		if m != nil {
			if err := st.grpc.Send(m); err != nil {
				return err
			}
			continue
		}
		var due <-chan time.Time
		if !wake.IsZero() {
			timer.Reset(max(time.Until(wake), time.Millisecond))
			due = timer.C
		}
		select {
		case <-over:
			return nil
		case <-st.poked:
		case <-due:
		}
	}
}

// next is the next message, or when to look again.
func (st *stream) next() (m *discovery.DeltaDiscoveryResponse, wake time.Time) {
	p := st.proxy
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	m, wake = st.session.Next(now)
	if m == nil {
		// A message that is late now counts as accepted: a server may be told.
		p.wake = sooner(p.wake, p.answer(now))
	}
	return m, wake
}
