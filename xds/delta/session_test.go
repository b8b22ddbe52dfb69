package delta

import (
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/protobuf/proto"
)

func TestNothingBeforeTheFirstWant(t *testing.T) {
	r := newRig(t, Options{})
	r.sub(TypeCluster, "*")
	r.next("nothing")
	r.s.Want(set())
	r.nextAck("CDS") // known to be empty, and said so
	r.next("nothing")
}

func TestWildcard(t *testing.T) {
	for _, names := range [][]string{nil, {"*"}} {
		r := newRig(t, Options{})
		r.s.Want(set(cluster("a", 1), cluster("b", 1)))
		r.sub(TypeCluster, names...)
		r.nextAck("CDS a b")
		r.next("nothing")
		r.s.Want(set(cluster("a", 2), cluster("c", 1)))
		r.nextAck("CDS a c")
		r.nextAck("CDS -b")
		r.next("nothing")
		r.unsub(TypeCluster, "*")
		r.s.Want(set(cluster("a", 3)))
		r.next("nothing")
		r.sub(TypeCluster) // an empty request is no legacy wildcard now
		r.next("nothing")
		r.sub(TypeCluster, "*")
		r.nextAck("CDS a")
	}
}

func TestLegacyWildcardGoesOnBesideNames(t *testing.T) {
	r := newRig(t, Options{})
	r.s.Want(set(cluster("a", 1), cluster("b", 1)))
	r.sub(TypeCluster)
	r.nextAck("CDS a b")
	r.sub(TypeCluster, "b", "x")
	r.nextAck("CDS b -x")
	r.unsub(TypeCluster, "b") // still under the wildcard: answered with the resource
	r.nextAck("CDS b")
	r.unsub(TypeCluster, "x") // not under it: answered as removed
	r.nextAck("CDS -x")
	r.sub(TypeCluster, "a")
	r.nextAck("CDS a")
	r.unsub(TypeCluster, "*")
	r.s.Want(set(cluster("a", 2), cluster("b", 2)))
	r.nextAck("CDS a")
	r.next("nothing")
}

func TestNamedSubscriptions(t *testing.T) {
	r := newRig(t, Options{})
	r.s.Want(set(endpoints("a", 1), endpoints("b", 1)))
	r.sub(TypeEndpoints, "a", "x")
	r.nextAck("EDS a -x") // what does not exist is said to be absent, once
	r.next("nothing")
	r.s.Want(set(endpoints("a", 1), endpoints("b", 2), endpoints("x", 1)))
	r.nextAck("EDS x")
	r.sub(TypeEndpoints, "a") // it may have forgotten it
	r.nextAck("EDS a")
	r.unsub(TypeEndpoints, "a", "never")
	r.next("nothing")
	r.s.Want(set(endpoints("a", 2), endpoints("x", 1)))
	r.next("nothing")
	r.s.Want(set(endpoints("a", 2)))
	r.nextAck("EDS -x")
	r.next("nothing")
	r.s.Want(set(endpoints("a", 2), endpoints("x", 3)))
	r.nextAck("EDS x")
}

func TestReconnect(t *testing.T) {
	a, b := cluster("a", 1), cluster("b", 2)
	r := newRig(t, Options{})
	r.again(TypeCluster, map[string]string{"a": a.Version, "b": "old", "gone": "1"})
	r.again(TypeEndpoints, map[string]string{"a": "old", "z": "1"}, "a", "y")
	r.next("nothing")
	r.s.Want(set(a, b, endpoints("a", 1)))
	r.nextAck("CDS b")
	r.nextAck("EDS a -y")
	r.next("nothing") // it may yet say what names the vanished
	r.now = r.now.Add(settleTime)
	r.nextAck("CDS -gone")
	r.next("nothing")
	r.again(TypeCluster, map[string]string{"a": "not the first request"})
	r.next("nothing")

	same := newRig(t, Options{})
	same.s.Want(set(a, b))
	same.again(TypeCluster, map[string]string{"a": a.Version, "b": b.Version})
	same.now = same.now.Add(time.Minute)
	same.next("nothing")
	if st := same.status(TypeCluster).State; st != Synced {
		t.Fatalf("state after a reconnect without changes: %s", st)
	}
}

func TestReconnectRemovesAfterTheRoutesHaveMoved(t *testing.T) {
	a := cluster("a", 1)
	r := newRig(t, Options{})
	r.s.Want(set(a, endpoints("a", 1), route("r", 2, "a")))
	r.again(TypeCluster, map[string]string{"a": a.Version, "old": "1"})
	r.again(TypeEndpoints, map[string]string{"a": endpoints("a", 1).Version}, "a")
	r.now = r.now.Add(settleTime)
	r.again(TypeRoute, map[string]string{"r": "names old"}, "r")
	m := r.next("RDS r")
	r.next("nothing")
	r.ack(m)
	r.nextAck("CDS -old")
}

func TestNonces(t *testing.T) {
	r := newRig(t, Options{})
	r.s.Want(set(endpoints("a", 1), endpoints("b", 1)))
	r.sub(TypeEndpoints, "a")
	m1 := r.next("EDS a")
	r.send(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeEndpoints, ResponseNonce: "wrong", ResourceNamesSubscribe: []string{"b"}})
	m2 := r.next("EDS b")
	r.s.Want(set(endpoints("a", 2), endpoints("b", 2)))
	r.next("nothing") // the next change waits for the answer
	r.ack(m2)         // answers both
	m3 := r.nextAck("EDS a b")
	r.ack(m1)
	r.nack(m1, "late words about an answered message")
	r.send(&discovery.DeltaDiscoveryRequest{TypeUrl: TypeRoute, ResponseNonce: m3.Nonce})
	r.nextAck("RDS")
	if st := r.status(TypeEndpoints); st.State != Synced || len(st.Nacks) > 0 {
		t.Fatalf("status %+v", st)
	}
}

func TestAnAnswerToWhatTheClientDroppedCountsForNothing(t *testing.T) {
	r := newRig(t, Options{})
	r.s.Want(set(cluster("a", 1), endpoints("a", 1), route("r", 1, "a")))
	r.sub(TypeCluster)
	r.sub(TypeEndpoints, "a")
	r.nextAck("CDS a")
	m := r.next("EDS a")
	r.unsub(TypeEndpoints, "a")
	r.ack(m)
	r.sub(TypeRoute, "r")
	r.next("nothing") // the cluster has no endpoints again
	if v := r.status(TypeEndpoints).Versions; len(v) > 0 {
		t.Fatalf("accepted: %v", v)
	}
	r.sub(TypeEndpoints, "a")
	r.nextAck("EDS a")
	r.nextAck("RDS r")
}

func TestBadRequests(t *testing.T) {
	r := newRig(t, Options{})
	if err := r.s.Receive(r.now, &discovery.DeltaDiscoveryRequest{}); !errors.Is(err, ErrRequest) {
		t.Fatalf("no type: %v", err)
	}
	var err error
	for i := 0; i < 100 && err == nil; i++ {
		err = r.s.Receive(r.now, &discovery.DeltaDiscoveryRequest{TypeUrl: strings.Repeat("x", i+1)})
	}
	if !errors.Is(err, ErrRequest) {
		t.Fatalf("100 types: %v", err)
	}
}

func envoyStart(t *testing.T, o Options) *rig {
	r := newRig(t, o)
	r.s.Want(set(cluster("a", 1), endpoints("a", 1), route("r", 1, "a"), listener("l", 1, "r", "e", "s", ""),
		mk(TypeExtension, "e", &discovery.Resource{Name: "e"}), mk(TypeSecret, "s", &discovery.Resource{Name: "s"})))
	r.sub(TypeCluster)
	r.nextAck("CDS a")
	r.sub(TypeEndpoints, "a")
	r.nextAck("EDS a")
	r.sub(TypeListener)
	r.nextAck("LDS l")
	r.sub(TypeRoute, "r")
	r.sub(TypeSecret, "s")
	r.sub(TypeExtension, "e")
	r.nextAck("SDS s")
	r.nextAck("RDS r")
	r.nextAck("ECDS e")
	r.next("nothing")
	return r
}

func TestOrder(t *testing.T) {
	r := envoyStart(t, Options{})
	r.s.Want(set(cluster("b", 1), endpoints("b", 1), route("r", 2, "b"), listener("l2", 1, "r", "e", "", ""),
		mk(TypeExtension, "e", &discovery.Resource{Name: "e", Version: "2"})))
	cds := r.next("CDS b")
	ecds := r.next("ECDS e") // a right that was taken away waits for nothing
	r.next("nothing")
	r.ack(cds)
	r.ack(ecds)
	r.next("nothing") // accepted, but without endpoints yet
	r.sub(TypeEndpoints, "b")
	eds := r.next("EDS b")
	r.next("nothing")
	r.ack(eds)
	lds := r.next("LDS l2")
	rds := r.next("RDS r")
	r.next("nothing")
	r.ack(lds)
	r.nextAck("LDS -l")
	r.next("SDS -s") // nothing names it now; cluster a is still in the route's last answer
	r.ack(rds)
	r.nextAck("CDS -a")
	r.nextAck("EDS -a")
	r.next("nothing")
}

func TestClusterBringsItsEndpoints(t *testing.T) {
	r := envoyStart(t, Options{})
	r.s.Want(set(cluster("a", 2), endpoints("a", 1), route("r", 1, "a")))
	r.next("CDS a")
	r.nextAck("EDS a")
}

func TestWithheldAckDelaysForTheGateOnly(t *testing.T) {
	r := envoyStart(t, Options{})
	r.s.Want(set(cluster("a", 1), cluster("b", 1), endpoints("a", 1), endpoints("b", 1), route("r", 2, "a", "b"),
		listener("l", 1, "r", "e", "s", ""), listener("l2", 1, "", "", "", "b"),
		mk(TypeExtension, "e", &discovery.Resource{Name: "e"}), mk(TypeSecret, "s", &discovery.Resource{Name: "s"})))
	r.next("CDS b")
	r.sub(TypeEndpoints, "b")
	r.next("EDS b")
	if m, wake := r.s.Next(r.now); m != nil || !wake.Equal(r.now.Add(15*time.Second)) {
		t.Fatalf("%s, wake %v", say(m), wake)
	}
	r.now = r.now.Add(15*time.Second - 1)
	r.next("nothing")
	r.now = r.now.Add(1)
	r.next("LDS l2")
	r.next("RDS r")
	if st := r.status(TypeCluster); st.Alarm != r.now || st.State != Stale || r.s.Unacked() != r.now.Add(-15*time.Second) {
		t.Fatalf("no alarm: %+v, unacked %v", st, r.s.Unacked())
	}
}

func TestNackKeepsTheLastAccepted(t *testing.T) {
	var told []Nack
	r := envoyStart(t, Options{Nacked: func(n Nack) { told = append(told, n) }})
	base := []*Resource{endpoints("a", 1), route("r", 1, "a"), listener("l", 1, "r", "e", "s", ""),
		mk(TypeExtension, "e", &discovery.Resource{Name: "e"}), mk(TypeSecret, "s", &discovery.Resource{Name: "s"})}
	old := r.status(TypeCluster).Versions["a"]
	bad := cluster("a", 66)
	r.s.Want(set(append([]*Resource{bad, cluster("ok", 1)}, base...)...))
	m := r.next("CDS a ok")
	r.nack(m, "Error adding/updating cluster(s) a: no such filter\n")
	r.nextAck("CDS ok")
	r.nextAck("EDS a")
	r.next("nothing")
	st := r.status(TypeCluster)
	if st.State != Nacked || len(st.Nacks) != 1 || st.Nacks[0].Held != old || st.Nacks[0].Cause != "a" || len(told) != 1 {
		t.Fatalf("status %+v, told %+v", st, told)
	}
	r.now = r.now.Add(time.Hour)
	r.s.Want(set(append([]*Resource{bad, cluster("ok", 2)}, base...)...))
	r.nextAck("CDS ok")
	r.sub(TypeCluster, "a") // it must be answered, with what it accepted
	if m := r.nextAck("CDS a"); m.Resources[0].Version != old {
		t.Fatalf("sent version %s, want the last accepted %s", m.Resources[0].Version, old)
	}
	r.nextAck("EDS a")
	r.s.Want(set(append([]*Resource{cluster("a", 3), cluster("ok", 2)}, base...)...))
	r.nextAck("CDS a")
	r.nextAck("EDS a")
	if st := r.status(TypeCluster); st.State != Synced || st.NackCount != 1 {
		t.Fatalf("status %+v", st)
	}
	r.s.Want(set(append([]*Resource{bad, cluster("ok", 2)}, base...)...))
	r.next("nothing")
}

func TestNackOfManyFindsTheOne(t *testing.T) {
	r := newRig(t, Options{})
	var rs []*Resource
	var names []string
	for i := range 20 {
		names = append(names, string(rune('a'+i)))
		rs = append(rs, endpoints(names[i], 1))
	}
	r.s.Want(set(rs...))
	r.sub(TypeEndpoints, names...)
	sent := 0
	for range 100 {
		m, _ := r.s.Next(r.now)
		if m == nil {
			break
		}
		if !slices.ContainsFunc(m.Resources, func(x *discovery.Resource) bool { return x.Name == "k" }) {
			r.ack(m)
			continue
		}
		sent++
		r.nack(m, "malformed, whatever that means")
	}
	st := r.status(TypeEndpoints)
	if len(st.Versions) != 19 || len(st.Nacks) != 1 || st.Nacks[0].Name != "k" || sent > 6 {
		t.Fatalf("accepted %v, nacks %+v, sent %d times", slices.Sorted(maps.Keys(st.Versions)), st.Nacks, sent)
	}
}

func TestNackOfEverythingIsNoStorm(t *testing.T) {
	r := newRig(t, Options{})
	var rs []*Resource
	for i := range 300 {
		rs = append(rs, cluster(strings.Repeat("c", i+1), 1))
	}
	r.s.Want(set(rs...))
	r.sub(TypeCluster)
	n := 0
	for ; n < 1000; n++ {
		m, _ := r.s.Next(r.now)
		if m == nil {
			break
		}
		r.nack(m, "no")
	}
	if n > 40 {
		t.Fatalf("%d messages in no time to a client that refuses all", n)
	}
}

func TestRefusedClusterHoldsItsRouteForTheGate(t *testing.T) {
	r := envoyStart(t, Options{})
	r.s.Want(set(cluster("a", 1), cluster("bad", 1), endpoints("a", 1), endpoints("bad", 1), route("r", 2, "a", "bad"),
		route("r2", 1, "a"), listener("l", 1, "r", "e", "s", ""),
		mk(TypeExtension, "e", &discovery.Resource{Name: "e"}), mk(TypeSecret, "s", &discovery.Resource{Name: "s"})))
	r.nack(r.next("CDS bad"), "bad")
	r.sub(TypeRoute, "r2")
	r.nextAck("RDS r2")
	r.next("nothing")
	r.now = r.now.Add(15 * time.Second)
	r.nextAck("RDS r")
}

func TestRefusedByOthersIsNotSent(t *testing.T) {
	bad := cluster("a", 66)
	r := envoyStart(t, Options{Refused: func(r *Resource) bool { return r.Version == bad.Version }})
	r.s.Want(set(bad, endpoints("a", 1), route("r", 1, "a"), listener("l", 1, "r", "e", "s", ""),
		mk(TypeExtension, "e", &discovery.Resource{Name: "e"}), mk(TypeSecret, "s", &discovery.Resource{Name: "s"})))
	r.next("nothing")
}

func TestLargeSetsAreSplit(t *testing.T) {
	r := newRig(t, Options{})
	big := func(name string) *Resource { return NewResource(TypeSecret, name, make([]byte, 2<<20), nil) }
	r.s.Want(set(big("a"), big("b"), NewResource(TypeSecret, "c", make([]byte, 20<<20), nil)))
	r.sub(TypeSecret)
	r.next("SDS a")
	r.next("SDS b")
	r.next("SDS c")
	r.next("nothing")
}

func TestWire(t *testing.T) {
	for _, x := range []*Resource{cluster("a", 1), NewResource(TypeSecret, "", nil, nil), NewResource(TypeSecret, "big", make([]byte, 1<<16), nil)} {
		var got discovery.DeltaDiscoveryResponse
		if err := proto.Unmarshal(x.Wire(), &got); err != nil {
			t.Fatal(err)
		}
		if want := (&Message{Resources: []*Resource{x}}).Response(); !proto.Equal(&got, want) {
			t.Errorf("wire says\n%v, want\n%v", &got, want)
		}
	}
}

func TestMentions(t *testing.T) {
	for _, c := range []struct {
		words, name string
		want        bool
	}{
		{"Error adding/updating cluster(s) api:8080: bad", "api:8080", true},
		{"Error adding/updating cluster(s) web-api:8080: bad", "api:8080", false},
		{"cluster api.v2:8080", "api", false},
		{"'api'", "api", true},
		{"api", "", false},
		{"xapi api.", "api", true},
	} {
		if got := mentions(c.words, c.name); got != c.want {
			t.Errorf("mentions(%q, %q) = %v", c.words, c.name, got)
		}
	}
}
