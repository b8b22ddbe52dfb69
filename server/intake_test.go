package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	keregev1 "github.com/kerege/kerege/api/kerege/v1"
)

// raw is a client that speaks HTTP/2 as it likes.
type raw struct {
	conn *tls.Conn
	dead chan struct{}

	mu      sync.Mutex // of all that follows, and of writing
	room    sync.Cond
	f       *http2.Framer
	window  map[uint32]int64 // 0: of the connection
	resets  int
	greeted chan struct{}
	streams uint32 // that the server lets it open
}

func (r *rig) raw(cert *tls.Certificate) *raw {
	r.t.Helper()
	conn, err := tls.Dial("tcp", r.cfg.Addresses.GRPC, &tls.Config{RootCAs: r.roots(), ServerName: "localhost", NextProtos: []string{"h2"}, Certificates: []tls.Certificate{*cert}})
	noError(r.t, err)
	r.t.Cleanup(func() { conn.Close() })
	c := &raw{conn: conn, dead: make(chan struct{}), greeted: make(chan struct{}), f: http2.NewFramer(conn, conn), window: map[uint32]int64{0: 65535}}
	c.room.L = &c.mu
	_, err = io.WriteString(conn, http2.ClientPreface)
	noError(r.t, err)
	noError(r.t, c.f.WriteSettings())
	go c.follow()
	<-c.greeted
	return c
}

func (c *raw) follow() {
	defer func() { close(c.dead); c.room.Broadcast() }()
	for {
		frame, err := c.f.ReadFrame()
		if err != nil {
			return
		}
		c.mu.Lock()
		switch frame := frame.(type) {
		case *http2.SettingsFrame:
			if !frame.IsAck() {
				c.streams, _ = frame.Value(http2.SettingMaxConcurrentStreams)
				close(c.greeted)
				err = c.f.WriteSettingsAck()
			}
		case *http2.PingFrame:
			if !frame.IsAck() {
				err = c.f.WritePing(true, frame.Data)
			}
		case *http2.WindowUpdateFrame:
			c.window[frame.StreamID] += int64(frame.Increment)
		case *http2.RSTStreamFrame:
			c.resets++
			delete(c.window, frame.StreamID)
		}
		c.mu.Unlock()
		c.room.Broadcast()
		if err != nil {
			return
		}
	}
}

func (c *raw) open(id uint32, path string) {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	for _, kv := range [][2]string{{":method", "POST"}, {":scheme", "https"}, {":authority", "x"}, {":path", path}, {"content-type", "application/grpc"}, {"te", "trailers"}} {
		_ = e.WriteField(hpack.HeaderField{Name: kv[0], Value: kv[1]})
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.window[id] = 65535
	_ = c.f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: b.Bytes(), EndHeaders: true})
}

// send writes in frames of a size, as far as the server has room; false when the
// stream or the connection has ended.
func (c *raw) send(id uint32, p []byte, size int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(p) > 0 {
		for c.window[0] <= 0 || c.window[id] <= 0 {
			select {
			case <-c.dead:
				return false
			default:
			}
			if _, open := c.window[id]; !open {
				return false
			}
			c.room.Wait()
		}
		n := min(int64(len(p)), c.window[0], c.window[id], int64(size))
		if c.f.WriteData(id, false, p[:n]) != nil {
			return false
		}
		c.window[0], c.window[id], p = c.window[0]-n, c.window[id]-n, p[n:]
	}
	return true
}

// announce begins a message of a length.
func announce(length int) []byte { return binary.BigEndian.AppendUint32([]byte{0}, uint32(length)) }

// peak is the most memory that was in use until the function it gives is called.
func peak() func() (megabytes int) {
	var most atomic.Uint64
	stop, done := make(chan struct{}), make(chan struct{})
	runtime.GC()
	var before runtime.MemStats
	runtime.ReadMemStats(&before)
	go func() {
		defer close(done)
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
				var now runtime.MemStats
				runtime.ReadMemStats(&now)
				most.Store(max(most.Load(), now.HeapInuse+now.StackInuse))
			}
		}
	}()
	return func() int { close(stop); <-done; return int(most.Load()-min(most.Load(), before.HeapInuse)) >> 20 }
}

// A node that begins big messages and does not end them, or sends them byte by
// byte, is cut off before it costs the server much; other nodes notice nothing.
func TestMessagesWithoutAnEnd(t *testing.T) {
	for name, attack := range map[string]struct {
		path          string
		length, piece int
	}{
		"announced too big": {keregev1.Sign_Sign_FullMethodName, 63 << 20, 16 << 10},
		"of calls":          {keregev1.Sign_Sign_FullMethodName, 15 << 20, 16 << 10},
		"of proxies":        {"/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources", 15 << 20, 16 << 10},
		"in small pieces":   {keregev1.Node_Connect_FullMethodName, 15 << 20, 1},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t).start()
			megabytes := peak()
			c := r.raw(r.nodeCert("vm-1"))
			const streams = 40
			var sending sync.WaitGroup
			text := make([]byte, 1<<20)
			for i := range streams {
				id := uint32(2*i + 1)
				c.open(id, attack.path)
				sending.Go(func() {
					for more := c.send(id, announce(attack.length), 5); more; more = c.send(id, text, attack.piece) {
					}
				})
			}
			for range 20 {
				_, err := keregev1.NewNodeClient(r.dial(r.nodeCert("vm-2"))).Peers(t.Context(), &keregev1.PeersRequest{})
				noError(t, err)
			}
			if attack.length < 16<<20 {
				select {
				case <-c.dead:
				case <-time.After(30 * time.Second):
					t.Fatal("the connection goes on")
				}
				if !strings.Contains(r.log.String(), "MiB of messages that have no end") {
					t.Error("the log does not say why")
				}
			}
			sending.Wait()
			most := megabytes()
			if t.Log("MB in use at most:", most); most > 100 {
				t.Error("that is too much")
			}
			c.conn.Close()
			r.until("all is given back", func() bool {
				r.s.intakes.mu.Lock()
				defer r.s.intakes.mu.Unlock()
				return r.s.intakes.nodes["vm-1"] == nil
			})
			_, err := keregev1.NewNodeClient(r.dial(r.nodeCert("vm-1"))).Peers(t.Context(), &keregev1.PeersRequest{})
			noError(t, err)
		})
	}
}

// What is on the wire in any pieces is counted for as long as gRPC keeps it.
func TestFramesInAnyPieces(t *testing.T) {
	var wire bytes.Buffer
	wire.WriteString(http2.ClientPreface)
	f := http2.NewFramer(&wire, nil)
	noError(t, f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 20}))
	head := func(id uint32, end bool) {
		noError(t, f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: []byte("block"), EndHeaders: true, EndStream: end}))
	}
	data := func(id uint32, end bool, b ...byte) { noError(t, f.WriteData(id, end, b)) }
	head(1, false)
	data(1, false, append(announce(3), "abc"...)...) // whole
	data(1, false, append(announce(2), "a"...)...)
	data(1, false, append([]byte("b"), announce(0)...)...) // the end of one, and another
	head(3, false)
	data(3, false, announce(100)[:2]...)
	data(3, false, append(announce(100)[2:], make([]byte, 60)...)...) // stays
	head(5, false)
	data(5, false, append(announce(100), 1, 2)...)
	noError(t, f.WriteRSTStream(5, http2.ErrCodeCancel))
	head(7, false)
	data(7, true, announce(100)...)
	head(9, true)
	data(11, false, announce(100)...) // of no stream
	data(5, false, announce(100)...)
	head(13, false)
	data(13, false, announce(100)...) // the server will end it
	want := 2 + pieceCost + 63 + pieceCost

	var answer bytes.Buffer
	f = http2.NewFramer(&answer, nil)
	noError(t, f.WriteData(3, false, make([]byte, 50)))
	noError(t, f.WriteHeaders(http2.HeadersFrameParam{StreamID: 3, BlockFragment: []byte("first"), EndHeaders: true}))
	noError(t, f.WriteHeaders(http2.HeadersFrameParam{StreamID: 13, BlockFragment: []byte("trailers"), EndHeaders: true, EndStream: true}))

	for size := 1; size < 200; size++ {
		c := &metered{node: "vm-1", of: newIntakes(nil), in: frames{skip: preface}, open: map[uint32]*message{}}
		feed := func(f *frames, b []byte, to frameSink) {
			for len(b) > 0 {
				n := min(len(b), 1+rand.N(size))
				noError(t, f.read(b[:n], to))
				noError(t, c.settle())
				b = b[n:]
			}
		}
		feed(&c.in, wire.Bytes(), (*incoming)(c))
		feed(&c.out, answer.Bytes(), (*outgoing)(c))
		if n := c.of.nodes["vm-1"].held; n != want || c.held != want || len(c.open) != 2 {
			t.Fatalf("pieces up to %d: %d, %d are held, not %d; open %v", size, n, c.held, want, c.open)
		}
	}
	var padded bytes.Buffer
	noError(t, http2.NewFramer(&padded, nil).WriteDataPadded(1, false, []byte("x"), make([]byte, 3)))
	if err := (&frames{}).read(padded.Bytes(), (*incoming)(&metered{})); err == nil {
		t.Error("what is padded is taken, and counted wrong")
	}
}

// A node that asks and never ends its questions keeps out itself alone.
func TestANodeHasSoManyCalls(t *testing.T) {
	r := newRig(t).start()
	for _, c := range []*raw{r.raw(r.nodeCert("vm-1")), r.raw(r.nodeCert("vm-1"))} {
		for i := range uint32(nodeCalls / 2) {
			c.open(2*i+1, keregev1.Node_Peers_FullMethodName)
		}
		c.mu.Lock()
		if c.streams != nodeStreamsOpen {
			t.Errorf("the server announces %d streams a connection", c.streams)
		}
		c.mu.Unlock()
	}
	r.until("they are counted", func() bool {
		r.s.intakes.mu.Lock()
		defer r.s.intakes.mu.Unlock()
		n := r.s.intakes.nodes["vm-1"]
		return n != nil && n.calls == nodeCalls
	})
	_, err := keregev1.NewNodeClient(r.dial(r.nodeCert("vm-1"))).Peers(t.Context(), &keregev1.PeersRequest{})
	refused(t, err, codes.ResourceExhausted, "128 calls open")
	_, err = keregev1.NewNodeClient(r.dial(r.nodeCert("vm-2"))).Peers(t.Context(), &keregev1.PeersRequest{})
	noError(t, err)
}

// Calls that are answered once have a deadline, and a node has few of them and of
// streams at a time, whatever its connections.
func TestTheTap(t *testing.T) {
	r := newRig(t)
	noError(t, r.open())
	leaf, err := x509.ParseCertificate(r.nodeCert("vm-1").Certificate[0])
	noError(t, err)
	noError(t, r.s.ca.Close())
	synctest.Test(t, func(t *testing.T) {
		info := credentials.TLSInfo{State: tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}}}
		ctx, cancel := context.WithCancel(peer.NewContext(context.Background(), &peer.Peer{AuthInfo: info}))
		defer cancel()
		in := newIntakes(nil)
		noError(t, in.add("vm-1", intake{connections: 1}))
		var first context.Context
		for i := range nodeCalls {
			got, err := in.tap(ctx, &tap.Info{FullMethodName: keregev1.Sign_Sign_FullMethodName})
			noError(t, err)
			if i == 0 {
				first = got
			}
		}
		_, err = in.tap(ctx, &tap.Info{FullMethodName: keregev1.Join_Join_FullMethodName})
		refused(t, err, codes.ResourceExhausted, "128 calls")
		other, stop := context.WithCancel(ctx)
		for range nodeStreamsOpen {
			got, err := in.tap(other, &tap.Info{FullMethodName: keregev1.Node_Connect_FullMethodName})
			noError(t, err)
			if _, limited := got.Deadline(); limited {
				t.Fatal("a stream has a deadline")
			}
		}
		for range nodeRefusals {
			_, err = in.tap(ctx, &tap.Info{FullMethodName: "/envoy.x/Stream"})
			refused(t, err, codes.ResourceExhausted, "1000 streams")
		}
		if err := in.patience("vm-1"); err == nil {
			t.Error("what is refused may be asked for without end")
		}
		noError(t, in.patience("vm-1"))
		stop()
		time.Sleep(callTime + time.Second)
		if first.Err() == nil {
			t.Error("a call goes on")
		}
		cancel()
		synctest.Wait()
		for range nodeConnections - 1 {
			noError(t, in.add("vm-1", intake{connections: 1}))
		}
		if err := in.add("vm-1", intake{connections: 1}); err == nil {
			t.Error("a node may have any number of connections")
		}
		noError(t, in.add("vm-1", intake{connections: -nodeConnections}))
		if len(in.nodes) != 0 {
			t.Errorf("%+v is left", in.nodes["vm-1"])
		}
	})
}

// Only a proxy's request may be big.
func TestBigMessages(t *testing.T) {
	r := newRig(t).start()
	c := r.dial(r.nodeCert("vm-1"))
	big := strings.Repeat("x", 2<<20)
	_, err := keregev1.NewSignClient(c).Sign(t.Context(), &keregev1.SignRequest{Evidence: big})
	if status.Code(err) != codes.Internal || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("a request to sign of 2 MiB: %v", err)
	}
	held := map[string]string{}
	for i := range 2 << 20 / 400 {
		held[fmt.Sprint(i, big[:400])] = "1"
	}
	s, err := discovery.NewAggregatedDiscoveryServiceClient(c).DeltaAggregatedResources(t.Context())
	noError(t, err)
	noError(t, s.Send(&discovery.DeltaDiscoveryRequest{Node: &corev3.Node{Id: "web/vm-1"}, TypeUrl: "type.googleapis.com/envoy.config.cluster.v3.Cluster", InitialResourceVersions: held}))
	_, err = s.Recv()
	noError(t, err)
}
