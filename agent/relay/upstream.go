package relay

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/kerege/kerege/xds/delta"
)

// types are asked for, each with a wildcard, in this order.
var types = []string{delta.TypeSecret, delta.TypeCluster, delta.TypeEndpoints, delta.TypeListener, delta.TypeRoute, delta.TypeExtension}

// mark is a name that no resource has. The protocol wants it answered as
// removed; asked for last, its answer says that the server knows this proxy and
// has gone through all types. Without it a reconnected client that lacks nothing
// would hear nothing.
const mark = "kerege:synced"

const maxMessage = 64 << 20

// upstream is one stream to a server.
type upstream struct {
	out    []*discovery.DeltaDiscoveryRequest // to be sent, in order
	poked  chan struct{}
	node   *corev3.Node
	cancel context.CancelFunc
	whole  time.Time // mark was answered; zero: not yet
	envoy  string    // version that the server was told
	opened bool      // something came
	again  bool      // to be opened again at once
}

func (u *upstream) send(req *discovery.DeltaDiscoveryRequest) {
	u.out = append(u.out, req)
	poke(u.poked)
}

// Back-off between streams.
const (
	backoffFirst  = 100 * time.Millisecond
	backoffMax    = 5 * time.Second
	backoffDenied = 30 * time.Second // the server knows us and says no
)

// follow keeps one stream open.
func (p *Proxy) follow(ctx context.Context) {
	wait, said := backoffFirst, ""
	for {
		u, err := p.stream(ctx)
		if ctx.Err() != nil {
			return
		}
		if u != nil && !u.whole.IsZero() {
			wait, said = backoffFirst, ""
		}
		if u != nil && u.again {
			continue
		}
		if text := status.Convert(err).Message(); text != said {
			said = text
			p.log.Warn("stream to the servers ended", "proxy", p.cfg.ID, "error", err)
		}
		pause, hinted := hint(err)
		if !hinted {
			pause = wait/2 + rand.N(wait/2+1)
			limit := backoffMax
			if c := status.Code(err); c == codes.PermissionDenied || c == codes.Unauthenticated || c == codes.InvalidArgument {
				limit = backoffDenied
			}
			wait = min(wait*2, limit)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// hint is what a busy server asks for, with jitter on top.
func hint(err error) (time.Duration, bool) {
	for _, d := range status.Convert(err).Details() {
		if r, ok := d.(*errdetails.RetryInfo); ok {
			d := min(max(r.GetRetryDelay().AsDuration(), backoffFirst), time.Minute)
			return d + rand.N(d), true
		}
	}
	return 0, false
}

// stream runs one stream to its end.
func (p *Proxy) stream(ctx context.Context) (*upstream, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := discovery.NewAggregatedDiscoveryServiceClient(p.cfg.Servers).DeltaAggregatedResources(ctx,
		grpc.WaitForReady(true), grpc.MaxCallRecvMsgSize(maxMessage), grpc.MaxCallSendMsgSize(maxMessage))
	if err != nil {
		p.ended(nil, err)
		return nil, err
	}
	u, err := p.open(cancel)
	if err != nil {
		p.ended(nil, err)
		return nil, err
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		p.write(ctx, u, s)
	}()
	for {
		var m *discovery.DeltaDiscoveryResponse
		if m, err = s.Recv(); err != nil {
			break
		}
		p.received(time.Now(), u, m)
	}
	cancel()
	<-sent
	p.ended(u, err)
	return u, err
}

// open makes the first requests of a stream.
func (p *Proxy) open(cancel context.CancelFunc) (*upstream, error) {
	meta, err := structpb.NewStruct(p.cfg.Metadata)
	if err != nil {
		return nil, fmt.Errorf("writing node metadata of %s: %w", p.cfg.ID, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	u := &upstream{poked: make(chan struct{}, 1), cancel: cancel, envoy: p.envoy}
	node := &corev3.Node{Id: p.cfg.ID, Cluster: p.cfg.Cluster, Metadata: meta, UserAgentName: "envoy",
		UserAgentVersionType: &corev3.Node_UserAgentVersion{UserAgentVersion: p.envoy}}
	initial := map[string]map[string]string{}
	for at, it := range p.view.items {
		if it.bad != "" {
			continue // sent again, so that this server hears the refusal too
		}
		if initial[at.Type] == nil {
			initial[at.Type] = map[string]string{}
		}
		initial[at.Type][at.Name] = it.latest.Version
	}
	for _, typ := range types {
		req := &discovery.DeltaDiscoveryRequest{TypeUrl: typ, ResourceNamesSubscribe: []string{"*"}, InitialResourceVersions: initial[typ]}
		req.Node, node = node, nil
		if typ == delta.TypeExtension {
			req.ResourceNamesSubscribe = append(req.ResourceNamesSubscribe, mark)
		}
		u.send(req)
	}
	clear(p.pending)
	p.up = u
	return u, nil
}

func (p *Proxy) write(ctx context.Context, u *upstream, s discovery.AggregatedDiscoveryService_DeltaAggregatedResourcesClient) {
	for {
		p.mu.Lock()
		out := u.out
		u.out = nil
		p.mu.Unlock()
		for _, req := range out {
			if s.Send(req) != nil {
				return // Recv says why
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-u.poked:
		}
	}
}

// ended notes that there is no stream.
func (p *Proxy) ended(u *upstream, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if u != nil && !u.whole.IsZero() {
		p.fresh = now
	}
	if u != nil && u.opened || p.upError == "" {
		p.upSince = now
	}
	p.up, p.upError = nil, status.Convert(err).Message()
	clear(p.pending)
	p.cfg.Notify()
}

// live says whether a server speaks to us and knows this proxy; mu is held.
func (p *Proxy) live() bool { return p.up != nil && !p.up.whole.IsZero() }

// received takes a message of a server in.
func (p *Proxy) received(now time.Time, u *upstream, m *discovery.DeltaDiscoveryResponse) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !u.opened {
		u.opened, p.upSince, p.upError = true, now, ""
	}
	typ := m.GetTypeUrl()
	p.heard, p.got[typ] = now, true
	pend := &pending{typ: typ, nonce: m.GetNonce(), at: now}
	for _, r := range m.GetResources() {
		res := resource(typ, r)
		p.view.put(now, res, p.accepted(ref(res)))
		pend.entries = append(pend.entries, entry{ref(res), res.Version})
	}
	for _, name := range m.GetRemovedResources() {
		if name == mark && typ == delta.TypeExtension {
			if u.whole.IsZero() {
				u.whole, p.source, p.fresh = now, Live, now
			}
			continue
		}
		p.view.remove(delta.Ref{Type: typ, Name: name})
	}
	p.pending[typ] = append(p.pending[typ], pend)
	p.advance(now)
}

// accepted is what a connected Envoy holds of a name, nil: nothing known.
func (p *Proxy) accepted(at delta.Ref) *delta.Resource {
	for st := range p.streams {
		if s := st.session.Standing(at.Type, at.Name); s.Resource != nil {
			return s.Resource
		}
	}
	return nil
}

// refused takes an Envoy's refusal in; mu is held.
func (p *Proxy) refused(n delta.Nack) {
	at := delta.Ref{Type: n.Type, Name: n.Name}
	if !p.view.refuse(at, n.Version, n.Words, p.accepted(at)) {
		return
	}
	p.log.Error("Envoy refused a resource", "proxy", p.cfg.ID, "type", short(n.Type), "name", n.Name, "version", n.Version, "words", n.Words)
	waits := slices.ContainsFunc(p.pending[n.Type], func(d *pending) bool { return slices.Contains(d.entries, entry{at, n.Version}) })
	if !waits && p.up != nil {
		// It was acknowledged when no Envoy was there. A client that subscribes
		// to what it holds is sent it again, and that can be refused.
		p.up.send(&discovery.DeltaDiscoveryRequest{TypeUrl: n.Type, ResourceNamesSubscribe: []string{n.Name}})
	}
}

// short is the last word of a type URL.
func short(typ string) string { return typ[strings.LastIndexByte(typ, '.')+1:] }
