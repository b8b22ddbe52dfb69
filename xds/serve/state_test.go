package serve

import (
	"testing"
	"time"

	"github.com/kerege/kerege/e2e/xdsim"
	"github.com/kerege/kerege/xds/delta"
)

// A wish that nobody has looked at yet is not what the proxy has accepted.
func TestAWishInTheMailboxIsStale(t *testing.T) {
	st := &stream{session: delta.New(delta.Options{})}
	is := func(when string, want delta.State) {
		t.Helper()
		if got := st.state(); got != want {
			t.Errorf("%s: %s, want %s", when, got, want)
		}
	}
	is("before the first wish", delta.Stale)
	st.mail.Store(&delta.Set{})
	is("with the first wish in the mailbox", delta.Stale)
	st.fill(time.Now())
	is("with nothing to send of it", delta.Synced)
	st.mail.Store(&delta.Set{})
	is("with the next in the mailbox", delta.Stale)
	if !st.behind() {
		t.Error("Status would not say so")
	}
}

func TestStatesOfProxies(t *testing.T) {
	l := newLab(t, Config{})
	l.open("a", xdsim.Mode{}, nil)
	l.open("b", xdsim.Mode{NeverAck: true}, nil)
	l.open("c", xdsim.Mode{Nack: func(string, string, string) string { return "no" }}, nil)
	l.known("a", "b", "c")
	if n := l.s.Counts(); n[delta.Stale] != 3 {
		t.Errorf("before the first set: %v", n)
	}
	set := &delta.Set{Groups: []*delta.Group{{Key: "g", Resources: []*delta.Resource{delta.NewResource(delta.TypeCluster, "x", nil, nil)}}}}
	for _, id := range []string{"a", "b", "c"} {
		l.s.Set(id, set)
	}
	l.until("they answer", func() bool {
		return l.s.State("a") == delta.Synced && l.s.State("b") == delta.Stale && l.s.State("c") == delta.Nacked
	})
	if n := l.s.Counts(); len(n) != 3 || n[delta.Synced] != 1 || n[delta.Stale] != 1 || n[delta.Nacked] != 1 {
		t.Errorf("%v", n)
	}
	if st := l.s.State("nobody"); st != "" {
		t.Errorf("a proxy without a stream is %s", st)
	}
}
