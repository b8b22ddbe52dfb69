package relay

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	clusterv3 "github.com/envoyproxy/go-control-plane/envoy/config/cluster/v3"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kerege/kerege/e2e/xdsim"
	"github.com/kerege/kerege/xds/delta"
)

// TestASilentEnvoyHoldsUpNobody: an Envoy that never answers costs its server a
// bounded wait, never the stream; its own stream is closed.
func TestASilentEnvoyHoldsUpNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.startServer()
		l.startRelay()
		l.want(group("a", 1))
		l.until("begun", func() bool { return l.told(delta.TypeRoute, "a") != "" })
		e := l.envoy(xdsim.Mode{NeverAck: true}, nil)
		l.until("a first message", func() bool { return e.Messages() > 0 })
		opened := l.row().Serial
		begin := time.Now()
		l.want(group("a", 2), group("b", 1))
		told := func() bool {
			return l.told(delta.TypeRoute, "b") != "" && l.told(delta.TypeCluster, "a") == cluster("a", 2).Version && l.row().Unacked.IsZero()
		}
		for !told() && time.Since(begin) < 3*time.Minute {
			time.Sleep(100 * time.Millisecond)
		}
		if took := time.Since(begin); took > time.Minute {
			t.Errorf("the server was told after %s", took)
		}
		if l.row().Serial != opened {
			t.Error("the stream to the server did not last")
		}
		<-e.Done()
		if took := time.Since(begin); status.Code(e.Err()) != codes.DeadlineExceeded || took > 2*ackWithin {
			t.Errorf("the silent Envoy's stream ended after %s with %v", took, e.Err())
		}
		l.stopRelay()
		l.stopServer()
		l.upConn.Close()
	})
}

// TestAnEnvoyThatDoesNotRead: nothing can be written to it any more, and still
// its server is answered and its stream closed.
func TestAnEnvoyThatDoesNotRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLab(t)
		l.startServer()
		l.startRelay()
		big := group("a", 1)
		big.Resources[0] = mk(delta.TypeCluster, "a", &clusterv3.Cluster{Name: "a", AltStatName: strings.Repeat("x", 2<<20),
			EdsClusterConfig: &clusterv3.Cluster_EdsClusterConfig{EdsConfig: adsSource}})
		l.want(big)
		l.until("begun", func() bool { return l.told(delta.TypeRoute, "a") != "" })
		e := l.envoy(xdsim.Mode{Slow: 5 * time.Minute}, nil)
		l.until("it has asked", func() bool { return l.p.Status().Envoys == 1 })
		time.Sleep(16 * time.Second) // the clusters fill the pipe, and the listeners get stuck behind them
		begin := time.Now()
		l.want(group("a", 2), group("b", 1))
		for !l.serverState(delta.TypeCluster).Answered.After(begin) && time.Since(begin) < 3*time.Minute {
			time.Sleep(100 * time.Millisecond)
		}
		if took := time.Since(begin); took > answerWithin+2*time.Second {
			t.Errorf("the server was told after %s", took)
		}
		for l.p.Status().Envoys > 0 && time.Since(begin) < 3*time.Minute {
			time.Sleep(100 * time.Millisecond)
		}
		if took := time.Since(begin); took > 2*ackWithin {
			t.Errorf("its stream lasted %s", took)
		}
		e.Close()
		l.stopRelay()
		l.stopServer()
		l.upConn.Close()
	})
}

func TestNothingIsShownBeforeWhatItNames(t *testing.T) {
	now := time.Unix(1000, 0)
	v := newView()
	shown := func(want string) {
		t.Helper()
		got := ""
		for _, g := range v.set.Groups {
			got += short(g.Resources[0].Type)[:1] + ":" + g.Resources[0].Name + " "
		}
		if got != want {
			t.Errorf("shown %q, want %q", got, want)
		}
	}
	v.put(now, listener("a", 1), nil)
	v.put(now, route("a", 1), nil)
	v.put(now, cluster("a", 1), nil)
	if wake := v.settle(now); !wake.Equal(now.Add(hold)) {
		t.Errorf("wake at %s", wake)
	}
	shown("")
	v.put(now, endpoints("a", 1), nil)
	v.settle(now)
	shown("C:a C:a R:a ")
	v.put(now.Add(time.Second), extension("a", 1), nil)
	if wake := v.settle(now.Add(time.Second)); !wake.IsZero() {
		t.Errorf("wake at %s with nothing to wait for", wake)
	}
	shown("C:a T:rbac:a C:a L:a R:a ")

	// What never comes is waited for only so long.
	v.put(now, listener("b", 1), nil)
	v.settle(now.Add(hold - 1))
	shown("C:a T:rbac:a C:a L:a R:a ")
	v.settle(now.Add(hold))
	shown("C:a T:rbac:a C:a L:a L:b R:a ")

	// A refusal brings back what was accepted; a newer version is tried.
	v.put(now, route("a", 2), route("a", 1))
	v.settle(now)
	if !v.refuse(delta.Ref{Type: delta.TypeRoute, Name: "a"}, route("a", 2).Version, "no", nil) {
		t.Error("a refusal is no news")
	}
	v.freeze()
	if r := v.items[delta.Ref{Type: delta.TypeRoute, Name: "a"}]; r.shown.Version != route("a", 1).Version {
		t.Error("the accepted one is not back")
	}
	v.put(now, route("a", 3), nil)
	v.settle(now)
	if r := v.items[delta.Ref{Type: delta.TypeRoute, Name: "a"}]; r.shown.Version != route("a", 3).Version || r.bad != "" {
		t.Error("a newer one is not tried")
	}
	v.remove(delta.Ref{Type: delta.TypeListener, Name: "b"})
	v.settle(now)
	shown("C:a T:rbac:a C:a L:a R:a ")
}
