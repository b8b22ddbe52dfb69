package server

import (
	"cmp"
	"context"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/kerege/kerege/api"
	keregev1 "github.com/kerege/kerege/api/kerege/v1"
	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/registry"
)

// nodeView is what a node should know. Nothing in it is changed once it is
// given out; what did not change should be the same slice as before.
type nodeView struct {
	placement []*keregev1.Placement // what the registries place on it
	names     []*keregev1.Name      // of the mesh
	bundle    []byte                // PEM of the trusted roots
	servers   []string
}

// nodeViews gives what a node should know now; changed is closed once that may
// be different.
type nodeViews interface {
	View(node string) (v nodeView, changed <-chan struct{})
}

// memberStore is the durable table of who is in the mesh: registry.Members.
type memberStore interface {
	Replace(node string, want ...mesh.Member) error
	Seen(node string)
	List() []registry.Record
}

// evictEvery is how often an open stream looks whether its node was sent away.
const evictEvery = 2 * time.Second

const maxMembers = 1000 // of one node

// nodeServer keeps each node in step with what it should know, and takes in what
// of it is in the mesh. Per stream there is the latest of both, never a queue.
type nodeServer struct {
	keregev1.UnimplementedNodeServer
	log         hclog.Logger
	admit       admission
	views       nodeViews
	members     memberStore
	table       *nodeTable
	trustDomain string
	now         func() time.Time
	mesh        func() (*mesh.Snapshot, []api.Node) // for Peers
	left        func(node string, left bool) error  // notes that a node gives its identity up; nil in tests
	tokenNode   func(token string) string           // whom a join token is for; nil in tests

	readers sync.WaitGroup
	writing sync.Mutex // held from the look whether a node is admitted until its members are written
}

// settled runs what sends a node away while no report of a node is being written.
func (s *nodeServer) settled(f func() error) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	return f()
}

// wait returns when the reader of every stream has ended, which they do when
// the gRPC server has stopped.
func (s *nodeServer) wait() { s.readers.Wait() }

// nodeStream is one node's stream; only its handler's goroutine uses it, but for
// the mailbox.
type nodeStream struct {
	s      *nodeServer
	node   string
	issued time.Time
	out    keregev1.Node_ConnectServer

	mailbox chan *keregev1.NodeReport // capacity 1: the latest report

	sent     nodeView
	first    bool
	accepted []string
	told     []string // of accepted
}

func (s *nodeServer) Connect(out keregev1.Node_ConnectServer) error {
	node, issued, err := callingNode(out.Context(), s.admit)
	if err != nil {
		s.log.Warn("a node is refused", "address", addressOf(out.Context()), "why", status.Convert(err).Message())
		return err
	}
	st := &nodeStream{s: s, node: node, issued: issued, out: out, mailbox: make(chan *keregev1.NodeReport, 1), first: true}
	ctx, leave := s.table.enter(out.Context(), node, s.now())
	defer leave()
	s.members.Seen(node)
	ended := make(chan struct{})
	s.readers.Go(func() { // ends with the stream, after this function
		defer close(ended)
		st.read()
	})
	st.accepted = st.known()
	return st.run(ctx, ended)
}

// read puts the latest report into the mailbox, in place of one not yet taken.
func (st *nodeStream) read() {
	for {
		report, err := st.out.Recv()
		if err != nil {
			return
		}
		select {
		case <-st.mailbox:
		default:
		}
		st.mailbox <- report // only this goroutine puts in, so there is room
	}
}

func (st *nodeStream) run(ctx context.Context, ended <-chan struct{}) error {
	tick := time.NewTicker(evictEvery)
	defer tick.Stop()
	for {
		view, changed := st.s.views.View(st.node)
		if err := st.send(view); err != nil {
			return err
		}
		select {
		case <-changed:
		case report := <-st.mailbox:
			if err := st.take(report, view); err != nil {
				return err
			}
		case <-tick.C:
			if err := st.s.admit.Admitted(st.node, st.issued); err != nil {
				return st.sentAway(status.Error(codes.PermissionDenied, err.Error()))
			}
			st.s.members.Seen(st.node)
		case <-ended:
			return nil
		case <-ctx.Done():
			if st.out.Context().Err() != nil {
				return nil
			}
			return status.Error(codes.Aborted, "another connection of this node has taken this one's place")
		}
	}
}

// sentAway tells the node so, and ends its stream.
func (st *nodeStream) sentAway(why error) error {
	st.s.log.Info("a node's stream is closed", "node", st.node, "why", status.Convert(why).Message())
	_ = st.out.Send(&keregev1.NodeUpdate{Evicted: true, Now: timestamppb.New(st.s.now())})
	return why
}

// send tells the node what differs from what it was told.
func (st *nodeStream) send(v nodeView) error {
	u := &keregev1.NodeUpdate{}
	if st.first || !slices.EqualFunc(v.placement, st.sent.placement, func(a, b *keregev1.Placement) bool { return proto.Equal(a, b) }) {
		u.PlacementSet, u.Placement = true, v.placement
	}
	if st.first || !sameNames(v.names, st.sent.names) {
		u.NamesSet, u.Names = true, v.names
	}
	if st.first || string(v.bundle) != string(st.sent.bundle) {
		u.BundleSet, u.Bundle, u.TrustDomain = true, v.bundle, st.s.trustDomain
	}
	if st.first || !slices.Equal(st.accepted, st.told) {
		u.AcceptedSet, u.Accepted = true, st.accepted
	}
	if st.first || !slices.Equal(v.servers, st.sent.servers) {
		u.Servers = v.servers
	}
	st.sent = v
	if proto.Size(u) == 0 {
		return nil
	}
	st.first, st.told = false, st.accepted
	u.Now = timestamppb.New(st.s.now())
	return st.out.Send(u)
}

// sameNames looks at every name only where it is not the same slice.
func sameNames(a, b []*keregev1.Name) bool {
	if len(a) != len(b) {
		return false
	}
	if len(a) == 0 || &a[0] == &b[0] {
		return true
	}
	return slices.EqualFunc(a, b, func(x, y *keregev1.Name) bool { return x == y || proto.Equal(x, y) })
}

// take makes a report durable. What it says beyond what the registries place on
// the node is left out and audited; what was in and is not said any more is out.
func (st *nodeStream) take(r *keregev1.NodeReport, v nodeView) error {
	st.s.table.note(st.node, r, st.s.now())
	if st.s.left != nil {
		if err := st.s.left(st.node, r.GetLeaving() && len(r.GetMembers()) == 0); err != nil {
			st.s.log.Error("that a node left is not on disk", "node", st.node, "error", err)
		}
	}
	st.s.members.Seen(st.node)
	if !r.GetComplete() {
		return nil
	}
	if len(r.GetMembers()) > maxMembers {
		return status.Errorf(codes.InvalidArgument, "a node may have %d members, not %d", maxMembers, len(r.GetMembers()))
	}
	want := map[string]mesh.Member{}
	for _, m := range r.GetMembers() {
		name := memberName(m.GetService(), m.GetWorkload())
		if member, ok := st.member(m, v, slices.Contains(st.accepted, name)); ok {
			want[name] = member
		} else {
			st.s.log.Warn("a node says that a service is in which no registry places there; it is left out", "node", st.node, "member", mesh.Quote(name))
		}
	}
	err := st.s.settled(func() error {
		if err := st.s.admit.Admitted(st.node, st.issued); err != nil {
			return status.Error(codes.PermissionDenied, err.Error())
		}
		return st.replace(want)
	})
	if status.Code(err) == codes.PermissionDenied {
		return st.sentAway(err)
	}
	if err != nil {
		st.s.log.Error("who is in the mesh is not on disk", "node", st.node, "error", err)
		return status.Error(codes.Unavailable, "the server cannot write down who is in the mesh; its log says why")
	}
	st.accepted = st.known()
	st.s.table.in(st.node, st.accepted)
	return nil
}

// member reads one membership; ok is whether it is the node's to say. One that
// is in stays in when a registry cannot see it.
func (st *nodeStream) member(m *keregev1.Membership, v nodeView, in bool) (mesh.Member, bool) {
	out := mesh.Member{Service: mesh.ServiceName(m.GetService()), Node: st.node, Workload: m.GetWorkload()}
	if mesh.CheckName(m.GetService()) != nil || m.GetWorkload() != "" && mesh.CheckNode(m.GetWorkload()) != nil {
		return out, false
	}
	placed := slices.ContainsFunc(v.placement, func(p *keregev1.Placement) bool {
		return p.GetService() == m.GetService() && p.GetWorkload() == m.GetWorkload()
	})
	for _, a := range m.GetAddresses() {
		addr, err := netip.ParseAddr(a)
		if err != nil {
			return out, false
		}
		out.Addrs = append(out.Addrs, addr.Unmap())
	}
	for _, p := range m.GetPorts() {
		if p == 0 || p > 65535 {
			return out, false
		}
		out.Ports = append(out.Ports, uint16(p))
	}
	slices.SortFunc(out.Addrs, netip.Addr.Compare)
	slices.Sort(out.Ports)
	return out, placed || in
}

// replace makes the node's members those of want; a report that changes nothing
// writes nothing.
func (st *nodeStream) replace(want map[string]mesh.Member) error {
	changed := false
	left := maps.Clone(want)
	for _, r := range st.s.members.List() {
		if r.Node != st.node {
			continue
		}
		name := memberName(string(r.Service), r.Workload)
		m, still := left[name]
		delete(left, name)
		if !still {
			st.s.log.Info("out of the mesh", "node", st.node, "member", name)
		}
		changed = changed || !still || !slices.Equal(m.Addrs, r.Addrs) || !slices.Equal(m.Ports, r.Ports)
	}
	for _, name := range slices.Sorted(maps.Keys(left)) {
		st.s.log.Info("in the mesh", "node", st.node, "member", name)
	}
	if !changed && len(left) == 0 {
		return nil
	}
	return st.s.members.Replace(st.node, slices.Collect(maps.Values(want))...)
}

// known lists the members of the node that are on disk.
func (st *nodeStream) known() []string {
	var list []string
	for _, r := range st.s.members.List() {
		if r.Node == st.node {
			list = append(list, memberName(string(r.Service), r.Workload))
		}
	}
	slices.Sort(list)
	return list
}

// nodeTable is which nodes are connected, for status.
type nodeTable struct {
	mu    sync.Mutex
	nodes map[string]*nodeRow
}

type nodeRow struct {
	row    api.Node
	cancel context.CancelFunc // of its stream
	stream int                // counts streams, so that an old one does not close a new one's row
}

func newNodeTable() *nodeTable { return &nodeTable{nodes: map[string]*nodeRow{}} }

// enter notes a stream of a node; the one before it ends.
func (t *nodeTable) enter(ctx context.Context, node string, now time.Time) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.nodes[node]
	if n == nil {
		n = &nodeRow{row: api.Node{Name: node, Addresses: []string{}, Services: []string{}}}
		t.nodes[node] = n
	}
	if n.cancel != nil {
		n.cancel()
	}
	n.stream++
	mine := n.stream
	n.cancel, n.row.Connected, n.row.Since = cancel, true, now
	return ctx, func() {
		cancel()
		t.mu.Lock()
		defer t.mu.Unlock()
		if n.stream == mine {
			n.cancel, n.row.Connected, n.row.Since = nil, false, time.Now()
		}
	}
}

func (t *nodeTable) note(node string, r *keregev1.NodeReport, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	row := &t.nodes[node].row
	row.Version, row.Addresses = clip(r.GetVersion(), 64), []string{}
	for _, a := range r.GetAddresses()[:min(len(r.GetAddresses()), 64)] {
		if addr, err := netip.ParseAddr(a); err == nil && mesh.Callable(addr) {
			row.Addresses = append(row.Addresses, addr.String())
		}
	}
	row.Outside = map[string]string{}
	for _, o := range r.GetOutside()[:min(len(r.GetOutside()), maxMembers)] {
		row.Outside[clip(memberName(o.GetService(), o.GetWorkload()), 256)] = clip(o.GetReason(), maxReason)
	}
	if r.GetNow() != nil {
		row.SkewMS = r.GetNow().AsTime().Sub(now).Milliseconds()
	}
}

func clip(s string, n int) string { return s[:min(len(s), n)] }

func (t *nodeTable) in(node string, members []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.nodes[node].row.Services = append([]string{}, members...)
}

// list gives every node that has been connected since the server started, sorted.
func (t *nodeTable) list() []api.Node {
	t.mu.Lock()
	defer t.mu.Unlock()
	list := []api.Node{}
	for _, n := range t.nodes {
		list = append(list, n.row)
	}
	slices.SortFunc(list, func(a, b api.Node) int { return cmp.Compare(a.Name, b.Name) })
	return list
}
