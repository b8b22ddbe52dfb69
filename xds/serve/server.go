package serve

import (
	"context"
	"runtime"
	"sync"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kerege/kerege/xds/delta"
)

// Config of a Server. Identify is needed; the rest has defaults.
type Config struct {
	// Peer says who is at the other end of a new stream, by what it proved alone:
	// a node's name. What it refuses takes no place. Nil: nobody is told apart.
	Peer func(ctx context.Context) (name string, err error)
	// Identify says which proxy a new stream belongs to, from what it proved
	// (the peer in ctx) and what it says. An error that is no gRPC status closes
	// the stream with PermissionDenied.
	Identify func(ctx context.Context, node *corev3.Node) (id string, err error)
	// Opened and Closed tell of streams, one call at a time, in order. They must
	// be quick and may call Set, nothing else of the Server. left is how many
	// streams of the proxy are open now; after 0 its set is forgotten.
	Opened func(id string, node *corev3.Node)
	Closed func(id string, left int)

	Logger  hclog.Logger
	Metrics Metrics
	Now     func() time.Time

	// MaxPending bounds the streams that wait for their first set; further ones
	// are refused with ResourceExhausted and a hint when to come back. Default
	// 500 a core.
	MaxPending int
	// MaxPendingOfPeer bounds, of them, those of one peer, so that none can take
	// the places of all. Default an eighth of MaxPending, 16 at least.
	MaxPendingOfPeer int
	// HelloWithin closes a stream whose first request does not come. Default 5 s.
	HelloWithin time.Duration
	// RetryAfter is the hint. Default 1 s.
	RetryAfter time.Duration
	// AckWithin closes a stream that does not answer a message. Default 60 s.
	AckWithin time.Duration
	// AskWithin closes a stream that does not ask for clusters. Default 30 s.
	AskWithin time.Duration
	// Gate is delta.Options.Gate.
	Gate time.Duration
}

// Metrics counts what a Server does. Its methods are called often and must be cheap.
type Metrics interface {
	StreamOpened()
	StreamClosed()
	StreamRefused(reason string)
	Sent(typ string, resources, bytes int)
	Answered(typ string, nack bool)
}

// Server is a discovery service: delta ADS only.
type Server struct {
	discovery.UnimplementedAggregatedDiscoveryServiceServer
	cfg   Config
	hooks sync.Mutex // held around a change of proxies and the hook that tells of it
	mu    sync.Mutex
	// proxies are those with an open stream.
	proxies map[string]*proxy
	pending int // streams without a set
	peers   map[string]*party
	serial  uint64
	wg      sync.WaitGroup
	done    chan struct{}
	closing sync.Once
	refused quarantine
}

// proxy is what the streams of one id share.
type proxy struct {
	set     *delta.Set
	streams map[*stream]struct{}
}

// party is what the streams of one peer share.
type party struct {
	streams map[*stream]struct{}
	pending int // of them, those without a set
}

// New makes a server. It starts nothing.
func New(c Config) *Server {
	if c.Logger == nil {
		c.Logger = hclog.NewNullLogger()
	}
	if c.Metrics == nil {
		c.Metrics = noMetrics{}
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.MaxPending == 0 {
		c.MaxPending = 500 * runtime.GOMAXPROCS(0)
	}
	if c.MaxPendingOfPeer == 0 {
		c.MaxPendingOfPeer = max(c.MaxPending/8, 16)
	}
	if c.HelloWithin == 0 {
		c.HelloWithin = 5 * time.Second
	}
	if c.RetryAfter == 0 {
		c.RetryAfter = time.Second
	}
	if c.AckWithin == 0 {
		c.AckWithin = time.Minute
	}
	if c.AskWithin == 0 {
		c.AskWithin = 30 * time.Second
	}
	return &Server{cfg: c, proxies: map[string]*proxy{}, peers: map[string]*party{}, done: make(chan struct{})}
}

// Register adds the service to a gRPC server made with ServerOptions.
func (s *Server) Register(g grpc.ServiceRegistrar) {
	discovery.RegisterAggregatedDiscoveryServiceServer(g, s)
}

// Set says what a proxy should have; the latest wins. It does not block. A
// proxy without a stream is not remembered: Opened asks for its set again.
func (s *Server) Set(id string, set *delta.Set) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.proxies[id]
	if p == nil || set == nil {
		return
	}
	first := p.set == nil
	p.set = set
	for st := range p.streams {
		if first {
			s.waits(st, -1)
		}
		st.mail.Store(set)
		st.poke()
	}
}

// Close ends all streams; their clients come back to another server.
func (s *Server) Close() { s.closing.Do(func() { close(s.done) }) }

// Wait returns when no goroutine of a stream is left. The gRPC server must have
// been stopped, or every client gone.
func (s *Server) Wait() { s.wg.Wait() }

// StreamAggregatedResources refuses the protocol that sends everything each time.
func (s *Server) StreamAggregatedResources(discovery.AggregatedDiscoveryService_StreamAggregatedResourcesServer) error {
	return status.Error(codes.Unimplemented, "only delta xDS is served here: set api_type to DELTA_GRPC in Envoy's ads_config")
}

// DeltaAggregatedResources serves one stream.
func (s *Server) DeltaAggregatedResources(g discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	return newStream(s, g).run()
}

// open puts an admitted stream that is now known to be id's into the table.
func (s *Server) open(st *stream) {
	s.hooks.Lock()
	defer s.hooks.Unlock()
	if st.gone {
		return
	}
	st.opened = true
	s.mu.Lock()
	p := s.proxies[st.id]
	if p == nil {
		p = &proxy{streams: map[*stream]struct{}{}}
		s.proxies[st.id] = p
	}
	s.serial++
	st.serial = s.serial
	p.streams[st] = struct{}{}
	if p.set != nil {
		s.waits(st, -1)
		st.mail.Store(p.set)
	}
	s.mu.Unlock()
	if s.cfg.Opened != nil {
		s.cfg.Opened(st.id, st.node)
	}
}

// leave takes a stream out again, known or not.
func (s *Server) leave(st *stream) {
	s.hooks.Lock()
	defer s.hooks.Unlock()
	st.gone = true
	s.mu.Lock()
	s.forget(st)
	if !st.opened {
		s.waits(st, -1)
		s.mu.Unlock()
		return
	}
	p := s.proxies[st.id]
	delete(p.streams, st)
	if p.set == nil {
		s.waits(st, -1)
	}
	left := len(p.streams)
	if left == 0 {
		delete(s.proxies, st.id)
	}
	s.mu.Unlock()
	if s.cfg.Closed != nil {
		s.cfg.Closed(st.id, left)
	}
}

type noMetrics struct{}

func (noMetrics) StreamOpened()         {}
func (noMetrics) StreamClosed()         {}
func (noMetrics) StreamRefused(string)  {}
func (noMetrics) Sent(string, int, int) {}
func (noMetrics) Answered(string, bool) {}
