package agent

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	keregev1 "github.com/kerege/kerege/api/kerege/v1"
)

// reportEvery repeats what a server should know, against what was lost.
const reportEvery = time.Minute

// talk keeps one node stream open until ctx is done.
func (a *Agent) talk(ctx context.Context) {
	wait, said := 100*time.Millisecond, ""
	for {
		heard, err := a.connect(ctx)
		if ctx.Err() != nil {
			return
		}
		if heard {
			wait, said = 100*time.Millisecond, ""
		}
		a.mu.Lock()
		a.nodeErr, a.nodeUp, a.reported, a.farewell = status.Convert(err).Message(), false, nil, false
		a.mu.Unlock()
		if status.Code(err) == codes.PermissionDenied {
			a.sentAway()
		}
		if text := status.Convert(err).Message(); text != said {
			said = text
			a.log.Warn("the node's stream to the servers ended; going on with what is known", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait/2 + rand.N(wait/2+1)):
		}
		limit := 5 * time.Second
		if c := status.Code(err); c == codes.PermissionDenied || c == codes.Unauthenticated {
			limit = 30 * time.Second
		}
		wait = min(wait*2, limit)
	}
}

// connect runs one stream, and says whether a server spoke on it.
func (a *Agent) connect(ctx context.Context) (heard bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := keregev1.NewNodeClient(a.conn()).Connect(ctx, grpc.WaitForReady(true), grpc.MaxCallRecvMsgSize(64<<20))
	if err != nil {
		return false, err
	}
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		a.report(ctx, stream)
	}()
	defer func() {
		cancel()
		<-sent
	}()
	for {
		u, err := stream.Recv()
		if err != nil {
			return heard, err
		}
		heard = true
		a.update(u)
	}
}

// report says what is in the mesh: at once, when it changes, and now and then.
func (a *Agent) report(ctx context.Context, stream keregev1.Node_ConnectClient) {
	tick := time.NewTicker(reportEvery)
	defer tick.Stop()
	for {
		r, members := a.nodeReport()
		if stream.Send(r) != nil {
			return // Recv says why
		}
		a.mu.Lock()
		a.reported, a.farewell = members, r.Leaving
		a.mu.Unlock()
		select {
		case <-ctx.Done():
			return
		case <-a.changed:
		case <-tick.C:
		}
	}
}

// nodeReport is the report of now, and the keys of its members.
func (a *Agent) nodeReport() (*keregev1.NodeReport, []string) {
	r := &keregev1.NodeReport{Version: a.opt.Version, Addresses: a.addresses(), Now: timestamppb.Now()}
	keys := []string{}
	a.mu.Lock()
	list, leaving := a.workloads, a.leaving
	a.mu.Unlock()
	a.memory.mu.Lock()
	defer a.memory.mu.Unlock()
	s := &a.memory.now
	r.Complete = !a.memory.lost
	sum := sha256.Sum256([]byte(s.Bundle))
	r.BundleHash = hex.EncodeToString(sum[:])
	for k := range s.In {
		m := &keregev1.Membership{}
		m.Service, m.Workload = cutKey(k)
		for _, w := range list {
			if w.key() == k {
				m.Addresses = w.Addresses
				for _, p := range w.Ports {
					m.Ports = append(m.Ports, uint32(p))
				}
			}
		}
		r.Members = append(r.Members, m)
		keys = append(keys, k)
	}
	r.Outside, r.Leaving = outside(s, list), leaving
	slices.SortFunc(r.Members, func(x, y *keregev1.Membership) int {
		if key(x.Service, x.Workload) < key(y.Service, y.Workload) {
			return -1
		}
		return 1
	})
	slices.Sort(keys)
	return r, keys
}

func cutKey(k string) (service, workload string) {
	for i := range k {
		if k[i] == '/' {
			return k[:i], k[i+1:]
		}
	}
	return k, ""
}

// update takes in what a server says. Every field that is set replaces what was
// known; nothing else changes.
func (a *Agent) update(u *keregev1.NodeUpdate) {
	a.memory.change(func(s *state) {
		s.Heard = time.Now().UTC()
		if u.GetEvicted() {
			s.Evicted = true
			return
		}
		s.Evicted = false
		if u.GetPlacementSet() {
			s.Placed = keepMembers(keepInside(placements(u.GetPlacement()), s.Placed), s)
		}
		if u.GetNamesSet() {
			s.Names = names(u.GetNames())
		}
		if u.GetBundleSet() {
			s.Bundle, s.TrustDomain = string(u.GetBundle()), u.GetTrustDomain()
		}
		if u.GetAcceptedSet() {
			s.Accepted = slices.Clone(u.GetAccepted())
			if a.memory.lost {
				// This node forgot who is in; the servers did not.
				for _, k := range s.Accepted {
					s.In[k] = !s.Left[k] || s.In[k]
				}
				maps.DeleteFunc(s.In, func(_ string, in bool) bool { return !in })
				a.memory.lost = false
			}
		}
	})
	if u.GetEvicted() {
		a.log.Error(evictedText)
	}
	a.mu.Lock()
	a.nodeUp, a.nodeErr = true, ""
	a.mu.Unlock()
	if len(u.GetServers()) > 0 {
		a.useServers(u.GetServers())
	}
	if err := a.id.Update(u.GetBundle(), u.GetServers()); err != nil {
		a.log.Error("what a server says of the trusted roots is not taken", "error", err)
	}
	poke(a.poked)
	poke(a.changed)
}

const evictedText = "this node was sent away from the mesh (evicted or banned); it keeps serving what it knows until its certificates expire. To come back: kerege token create -node NAME on a server, then kerege join here"

// sentAway notes that the servers refuse this node, which was away when it was
// evicted, too.
func (a *Agent) sentAway() {
	before := false
	a.memory.look(func(s *state) { before = s.Evicted })
	if before {
		return
	}
	a.memory.change(func(s *state) { s.Evicted = true })
	a.log.Error(evictedText)
}

// keepMembers adds what is in the mesh and no registry places here any more:
// only `kerege leave` takes that out.
func keepMembers(said []placement, s *state) []placement {
	for _, old := range s.Placed {
		if s.In[old.key()] && !slices.ContainsFunc(said, func(p placement) bool { return p.key() == old.key() }) {
			old.Gone = true
			said = append(said, old)
		}
	}
	return said
}

// keepInside keeps what was known of the ports of an allocation that is where it
// was, while a server does not know them.
func keepInside(said, old []placement) []placement {
	for i := range said {
		p := &said[i]
		for _, o := range old {
			if o.key() == p.key() && o.Inside && !p.Inside && slices.Equal(o.Addresses, p.Addresses) {
				p.Inside, p.Ports = true, o.Ports
			}
		}
	}
	return said
}

func placements(in []*keregev1.Placement) []placement {
	out := []placement{}
	for _, p := range in {
		x := placement{Service: p.GetService(), Workload: p.GetWorkload(), Addresses: p.GetAddresses(), Source: p.GetSource(), MTLS: p.GetMtls(), Inside: p.GetInside() && p.GetWorkload() != ""}
		for _, port := range p.GetPorts() {
			if port > 0 && port < 1<<16 {
				x.Ports = append(x.Ports, uint16(port))
			}
		}
		out = append(out, x)
	}
	return out
}

func names(in []*keregev1.Name) []name {
	out := make([]name, 0, len(in))
	for _, n := range in {
		out = append(out, name{Service: n.GetService(), V4: n.GetV4(), V6: n.GetV6(), Consul: n.GetConsul()})
	}
	return out
}

// addresses are this host's own, without loopback and link-local ones.
func (a *Agent) addresses() []string {
	all, err := net.InterfaceAddrs()
	if err != nil {
		a.log.Warn("reading this host's addresses", "error", err)
		return nil
	}
	var out []string
	for _, x := range all {
		p, err := netip.ParsePrefix(x.String())
		if err != nil || p.Addr().IsLoopback() || p.Addr().IsLinkLocalUnicast() {
			continue
		}
		out = append(out, p.Addr().String())
	}
	slices.Sort(out)
	return out
}
