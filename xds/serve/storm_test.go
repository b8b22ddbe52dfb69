package serve

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"

	"github.com/kerege/kerege/e2e/xdsim"
	"github.com/kerege/kerege/xds/delta"
)

// TestStorm: many clients at once, far more than may wait at a time, all come in.
func TestStorm(t *testing.T) {
	const n = 300
	asked := make(chan string, n)
	l := newLab(t, Config{MaxPending: 20, RetryAfter: 50 * time.Millisecond})
	l.s.cfg.Opened = func(id string, _ *corev3.Node) { asked <- id }
	done := make(chan struct{})
	stop := make(chan struct{})
	want := set(service("a", 1), service("b", 1))
	go func() { // compiles one proxy at a time, as a busy server would
		defer close(done)
		for {
			select {
			case id := <-asked:
				time.Sleep(200 * time.Microsecond)
				l.s.Set(id, want)
			case <-stop:
				return
			}
		}
	}()
	t.Cleanup(func() { close(stop); <-done })
	conn := l.conn()
	clients, refused, err := xdsim.Storm(l.ctx, n, func(i int) (*xdsim.Client, error) {
		return xdsim.Open(l.ctx, conn, node(fmt.Sprint("p", i)), xdsim.Mode{}, nil)
	}, func(c *xdsim.Client) error {
		return c.Wait(l.ctx, xdsim.Route, func(h map[string]string) bool { return len(h) == 2 })
	})
	if err != nil {
		t.Fatal(err)
	}
	if refused == 0 {
		t.Error("nobody was asked to come back later")
	}
	l.fine(clients...)
	for _, c := range clients {
		c.Close()
	}
	l.until("all gone", func() bool { return len(l.s.Status()) == 0 })
}

// TestServerDiesDuringAPush: at whatever message the server dies, the client goes
// on with another one, is told of nothing twice and sees no half state.
func TestServerDiesDuringAPush(t *testing.T) {
	before := set(service("a", 1), service("b", 1))
	after := set(service("b", 2), service("c", 1), service("d", 1))
	for at := 1; ; at++ {
		one, two := newLab(t, Config{}), newLab(t, Config{})
		n := 0
		dead := make(chan struct{})
		c := one.open("x", xdsim.Mode{Seen: func(*discovery.DeltaDiscoveryResponse) {
			if n++; n == at+4 { // the first four are the configuration before
				close(dead)
			}
		}}, nil)
		one.known("x")
		one.s.Set("x", before)
		one.holds(c, xdsim.Route, "a", "b")
		one.s.Set("x", after)
		last := false
		select {
		case <-dead:
			go one.g.Stop() // as abrupt as it gets in one process
			<-c.Done()
		case <-time.After(300 * time.Millisecond):
			last = true // the push has fewer messages
		}
		one.fine(c)
		held := c.Close()
		again := two.open("x", xdsim.Mode{}, held)
		two.known("x")
		two.s.Set("x", after)
		two.holds(again, xdsim.Cluster, "b", "c", "d")
		two.holds(again, xdsim.Listener, "b", "c", "d")
		two.holds(again, xdsim.Route, "b", "c", "d")
		err := again.Wait(two.ctx, xdsim.Endpoints, func(h map[string]string) bool {
			return len(h) == 3 && h["b"] == after.Groups[0].Resources[1].Version
		})
		if err != nil {
			t.Fatal(err)
		}
		two.fine(again)
		if last {
			if at < 5 {
				t.Errorf("the server died at %d places only", at-1)
			}
			if got := again.Messages(); got != 0 {
				t.Errorf("%d messages to a client that had all", got)
			}
			return
		}
	}
}

// TestSetOfAStranger: a set for a proxy without a stream is not kept.
func TestSetOfAStranger(t *testing.T) {
	s := New(Config{Identify: func(_ context.Context, n *corev3.Node) (string, error) { return n.GetId(), nil }})
	for i := range 1000 {
		s.Set(fmt.Sprint(i), &delta.Set{})
	}
	if len(s.proxies) != 0 {
		t.Fatalf("%d proxies are remembered", len(s.proxies))
	}
}
