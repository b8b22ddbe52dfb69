package serve

import (
	"context"
	"fmt"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/kerege/kerege/e2e/xdsim"
)

// byHeader is Config.Peer for a network without certificates.
func byHeader(ctx context.Context) (string, error) {
	md, _ := metadata.FromIncomingContext(ctx)
	if v := md.Get("peer"); len(v) == 1 {
		return v[0], nil
	}
	return "", status.Error(codes.Unauthenticated, "who is it")
}

// as is a context whose streams come from a peer.
func (l *lab) as(peer string) context.Context {
	return metadata.AppendToOutgoingContext(l.ctx, "peer", peer)
}

// silent opens a stream that says nothing, and gives its end.
func (l *lab) silent(ctx context.Context, conn *grpc.ClientConn) <-chan error {
	l.t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	l.t.Cleanup(cancel)
	s, err := discovery.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err != nil {
		l.t.Fatal(err)
	}
	end := make(chan error, 1)
	go func() { _, err := s.Recv(); end <- err }()
	return end
}

func (s *Server) waiting() (all int, of map[string]int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	of = map[string]int{}
	sum := 0
	for name, p := range s.peers {
		of[name] = p.pending
		sum += p.pending
	}
	if sum != s.pending {
		panic(fmt.Sprint(s.pending, " wait in all, and of the peers ", sum))
	}
	return s.pending, of
}

// A node that opens streams and says nothing has its own part of the places, and
// not for long; the others come in meanwhile, and a stranger takes none.
func TestANodeFillsItsOwnPlacesAlone(t *testing.T) {
	l := newLab(t, Config{Peer: byHeader, MaxPending: 40, MaxPendingOfPeer: 10, HelloWithin: 1500 * time.Millisecond})
	conn := l.conn()
	var ends []<-chan error
	for range 200 {
		ends = append(ends, l.silent(l.as("evil"), conn))
	}
	for range 50 {
		if code := status.Code(<-l.silent(l.ctx, conn)); code != codes.Unauthenticated {
			t.Fatalf("a stranger's stream ended with %s", code)
		}
	}
	l.until("the attacker has its part", func() bool { all, of := l.s.waiting(); return all == 10 && of["evil"] == 10 })
	var good []*xdsim.Client
	for i := range 20 { // more at once than would fit beside one another in what the attacker left of 40 if it had them all
		id := fmt.Sprint("web/n", i)
		c, err := xdsim.Open(l.as(fmt.Sprint("n", i)), conn, node(id), xdsim.Mode{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		good = append(good, c)
	}
	l.until("the others are known", func() bool { return len(l.s.Status()) == len(good) })
	for i, c := range good {
		l.s.Set(fmt.Sprint("web/n", i), set(service("a", 1)))
		l.holds(c, xdsim.Cluster, "a")
	}
	refused, late := 0, 0
	for _, end := range ends {
		switch code := status.Code(<-end); code {
		case codes.ResourceExhausted:
			refused++
		case codes.DeadlineExceeded:
			late++
		default:
			t.Errorf("an attacker's stream ended with %s", code)
		}
	}
	if refused != 190 || late != 10 {
		t.Errorf("%d were refused and %d ended for their silence, want 190 and 10", refused, late)
	}
	if all, of := l.s.waiting(); all != 0 || len(of) != len(good) {
		t.Errorf("%d wait, peers %v", all, of)
	}
	l.fine(good...)
}

// All streams of a peer end at once, those that wait for a word too, and no other's.
func TestDrop(t *testing.T) {
	l := newLab(t, Config{Peer: byHeader})
	conn := l.conn()
	open := func(peer, id string) *xdsim.Client {
		c, err := xdsim.Open(l.as(peer), conn, node(id), xdsim.Mode{}, nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	a, b, other := open("n1", "web/n1"), open("n1", "api/n1"), open("n2", "web/n2")
	quiet := l.silent(l.as("n1"), conn)
	l.until("all are in", func() bool { all, _ := l.s.waiting(); return all == 4 && len(l.s.Status()) == 3 })
	l.s.Set("web/n1", set(service("a", 1)))
	l.holds(a, xdsim.Cluster, "a")
	if n := l.s.Drop("n1", status.Error(codes.PermissionDenied, "gone")); n != 3 {
		t.Errorf("%d streams", n)
	}
	for _, c := range []*xdsim.Client{a, b} {
		<-c.Done()
		if status.Code(c.Err()) != codes.PermissionDenied {
			t.Errorf("ended with %v", c.Err())
		}
	}
	if err := <-quiet; status.Code(err) != codes.PermissionDenied {
		t.Errorf("the quiet one ended with %v", err)
	}
	l.until("the other is left", func() bool { st := l.s.Status(); return len(st) == 1 && st[0].ID == "web/n2" })
	l.s.Set("web/n2", set(service("a", 1)))
	l.holds(other, xdsim.Cluster, "a")
	if n := l.s.Drop("n1", nil); n != 0 {
		t.Errorf("%d streams of who is gone", n)
	}
	if all, of := l.s.waiting(); all != 0 || len(of) != 1 {
		t.Errorf("%d wait, %v", all, of)
	}
}
