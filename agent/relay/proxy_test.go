package relay

import (
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kerege/kerege/agent/seal"
	"github.com/kerege/kerege/e2e/xdsim"
	"github.com/kerege/kerege/xds/delta"
)

func TestEnvoyIsServedThroughAndFromDisk(t *testing.T) {
	l := newLab(t)
	l.startServer()
	l.startRelay()
	e := l.envoy(xdsim.Mode{}, nil) // before a server has anything: it must wait
	a, b := group("a", 1), group("b", 1)
	l.until("the stream at the server", func() bool { return l.row().ID == id })
	if n := e.Messages(); n != 0 {
		t.Fatalf("%d messages before any resource is known", n)
	}
	l.want(a, b)
	for _, typ := range []string{xdsim.Cluster, xdsim.Endpoints, xdsim.Listener, xdsim.Route} {
		l.holds(e, typ, "a", "b")
	}
	l.holds(e, xdsim.Extension, "rbac:a", "rbac:b")
	l.until("synced at the server", func() bool { return l.row().Unacked.IsZero() && l.told(delta.TypeRoute, "b") != "" })
	l.until("ready", func() bool { ok, _ := l.p.Ready(); return ok })
	st := l.p.Status()
	if !st.Connected || st.Source != Live || st.Envoys != 1 || st.Envoy != "1.40.0" || l.row().Envoy != "envoy 1.40.0" {
		t.Errorf("status %+v; at the server %q", st, l.row().Envoy)
	}
	l.fine(e)
	l.until("the file", func() bool { _, err := os.Stat(l.file); return err == nil })

	// Every server and the agent go; both come back without servers.
	e.Close()
	l.stopServer()
	l.stopRelay()
	l.startRelay()
	e = l.envoy(xdsim.Mode{}, nil)
	for _, typ := range []string{xdsim.Cluster, xdsim.Endpoints, xdsim.Listener, xdsim.Route} {
		l.holds(e, typ, "a", "b")
	}
	l.holds(e, xdsim.Extension, "rbac:a", "rbac:b")
	l.fine(e)
	st = l.p.Status()
	if st.Connected || st.Source != Disk || st.Fresh.IsZero() || st.Types[0].State != delta.Stale || !st.Ready && st.Envoys != 1 {
		t.Errorf("from disk: %+v", st)
	}

	// A server returns with one change: neither the relay nor Envoy is sent more.
	before := e.Messages()
	l.want(a, &delta.Group{Key: b.Key, Resources: []*delta.Resource{b.Resources[0], endpoints("b", 2), b.Resources[2], b.Resources[3], b.Resources[4]}})
	l.startServer()
	l.until("the change", func() bool { return e.Held(xdsim.Endpoints)["b"] == endpoints("b", 2).Version })
	l.until("connected", func() bool { return l.p.Status().Connected })
	if got := e.Messages() - before; got != 1 {
		t.Errorf("%d messages to Envoy for one change", got)
	}
	if m := l.row().Messages; m != 3 { // the change, that there are no secrets, and the answer to mark
		t.Errorf("%d messages of the server for one change", m)
	}
}

func TestRefusalsPassInEnvoysWords(t *testing.T) {
	l := newLab(t)
	l.startServer()
	l.startRelay()
	a1, a2 := group("a", 1), group("a", 2)
	l.want(a1)
	bad := route("a", 2).Version
	e := l.envoy(xdsim.Mode{Nack: func(typ, name, version string) string {
		if version == bad {
			return "no such virtual host"
		}
		return ""
	}}, nil)
	l.holds(e, xdsim.Route, "a")
	l.want(a2, group("b", 1))
	l.holds(e, xdsim.Listener, "a", "b")
	l.until("the refusal at the server", func() bool { return l.serverState(delta.TypeRoute).State == delta.Nacked })
	n := l.serverState(delta.TypeRoute).Nacks[0]
	if n.Name != "a" || n.Version != bad || !strings.Contains(n.Words, "no such virtual host") {
		t.Errorf("the server heard %+v", n)
	}
	l.until("the rest", func() bool {
		return e.Held(xdsim.Endpoints)["a"] == endpoints("a", 2).Version && e.Held(xdsim.Route)["b"] != ""
	})
	if got := e.Held(xdsim.Route)["a"]; got != route("a", 1).Version {
		t.Errorf("Envoy holds route %s, not the accepted one", got)
	}
	ts := l.p.Status().Types[4]
	if ts.State != delta.Nacked || len(ts.Refused) != 1 || ts.Refused[0].Held != route("a", 1).Version {
		t.Errorf("status %+v", ts)
	}
	l.stopServer() // another server hears of it too
	l.startServer()
	l.until("the refusal at another server", func() bool { return l.serverState(delta.TypeRoute).State == delta.Nacked })
	e.Close()

	// The next Envoy of that version, also after a restart of the agent without
	// servers, starts with what was accepted.
	l.stopServer()
	l.stopRelay()
	l.startRelay()
	good := l.envoy(xdsim.Mode{}, nil)
	l.holds(good, xdsim.Route, "a", "b")
	if got := good.Held(xdsim.Route)["a"]; got != route("a", 1).Version {
		t.Errorf("from disk Envoy is given route %s, which one refused", got)
	}
}

// TestALateRefusalReachesTheServer: what was acknowledged because no Envoy was
// there is refused by the next one.
func TestALateRefusalReachesTheServer(t *testing.T) {
	l := newLab(t)
	l.startServer()
	l.startRelay()
	l.want(group("a", 1))
	l.until("acknowledged without an Envoy", func() bool {
		return l.told(delta.TypeRoute, "a") != "" && l.p.Status().Connected && l.row().Unacked.IsZero()
	})
	e := l.envoy(xdsim.Mode{Nack: func(typ, name, version string) string {
		if typ == xdsim.Extension {
			return "unknown filter"
		}
		return ""
	}}, nil)
	l.holds(e, xdsim.Route, "a")
	l.until("the refusal at the server", func() bool { return l.serverState(delta.TypeExtension).State == delta.Nacked })
	if ok, why := l.p.Ready(); ok || !strings.Contains(why, "rbac:a") {
		t.Errorf("ready %v: %q", ok, why)
	}
	if n := e.Refused()["type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig/rbac:a@"+extension("a", 1).Version]; n != 1 {
		t.Errorf("Envoy was sent the refused one %d times", n)
	}
}

func TestAServerDiesDuringAPush(t *testing.T) {
	l := newLab(t)
	l.startServer()
	l.startRelay()
	l.want(group("a", 1))
	e := l.envoy(xdsim.Mode{}, nil)
	l.holds(e, xdsim.Listener, "a")
	var all []*delta.Group
	for _, n := range []string{"a", "b", "c", "d"} {
		all = append(all, group(n, 2))
	}
	for range 5 {
		l.want(all...)
		l.stopServer()
		l.startServer()
		l.want(group("a", 1))
		l.stopServer()
		l.startServer()
	}
	l.want(all...)
	l.holds(e, xdsim.Listener, "a", "b", "c", "d")
	l.holds(e, xdsim.Route, "a", "b", "c", "d")
	l.until("synced", func() bool { return e.Held(xdsim.Route)["a"] == route("a", 2).Version && l.row().Unacked.IsZero() })
	l.fine(e)
}

func TestADamagedFileIsRefusedAndKept(t *testing.T) {
	l := newLab(t)
	if err := newStore(l.file, id, l.key).save(&delta.Set{Groups: []*delta.Group{group("a", 1)}}, about{}); err != nil {
		t.Fatal(err)
	}
	text, _ := os.ReadFile(l.file)
	text[len(text)/2] ^= 1
	if err := os.WriteFile(l.file, text, 0o600); err != nil {
		t.Fatal(err)
	}
	l.startRelay()
	st := l.p.Status()
	if st.Source != None || !strings.Contains(st.Disk, "damaged") {
		t.Errorf("status %+v", st)
	}
	if kept, _ := filepath.Glob(l.file + ".refused-*"); len(kept) != 1 {
		t.Errorf("kept %v", kept)
	}
	l.startServer()
	l.want(group("a", 1))
	e := l.envoy(xdsim.Mode{}, nil)
	l.holds(e, xdsim.Route, "a")
	l.until("a new file", func() bool { _, err := os.Stat(l.file); return err == nil })
	l.stopRelay()

	// Another proxy's file, or one of another key, is not believed either.
	if _, _, _, err := newStore(l.file, "api/n1", l.key).load(); err == nil {
		t.Error("another proxy's file was read")
	}
	if _, _, _, err := newStore(l.file, id, seal.NewKey()).load(); err == nil {
		t.Error("a file of another key was read")
	}
}

func TestAStrangerIsRefused(t *testing.T) {
	l := newLab(t)
	l.startRelay()
	c := l.envoyAs("api/n1", xdsim.Mode{}, nil)
	<-c.Done()
	if err := c.Err(); status.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), "web/n1") {
		t.Errorf("a stranger: %v", err)
	}
}

func TestAFullDiskIsNoEnd(t *testing.T) {
	l := newLab(t)
	l.file = filepath.Join(filepath.Dir(l.file), "no-such-folder", "x")
	l.startServer()
	l.startRelay()
	l.want(group("a", 1))
	e := l.envoy(xdsim.Mode{}, nil)
	l.holds(e, xdsim.Listener, "a")
	l.until("the alarm", func() bool { return l.p.Status().Disk != "" })
}

// TestAnyChangesEndEqual: after random changes, restarts of every part among
// them, Envoy has what the server wants, and was never shown a dangling name.
func TestAnyChangesEndEqual(t *testing.T) {
	l := newLab(t)
	l.startServer()
	l.startRelay()
	r := rand.New(rand.NewPCG(1, 2))
	names := []string{"a", "b", "c", "d", "e"}
	var state *xdsim.State
	var e *xdsim.Client
	wish := []*delta.Group{group("a", 0)}
	l.want(wish...)
	for range 60 {
		switch r.IntN(8) {
		case 0:
			l.stopServer()
			l.startServer()
		case 1:
			if e != nil {
				l.fine(e)
				state = e.Close()
				e = nil
			}
			if r.IntN(2) == 0 {
				state = nil
			}
		case 2:
			if e == nil {
				l.stopRelay()
				l.startRelay()
			}
		default:
			wish = nil
			for _, n := range names {
				if r.IntN(3) > 0 {
					wish = append(wish, group(n, r.IntN(3)))
				}
			}
			l.want(wish...)
		}
		if e == nil && r.IntN(2) == 0 {
			e = l.envoy(xdsim.Mode{}, state)
		}
		time.Sleep(time.Duration(r.IntN(4)) * time.Millisecond)
	}
	if e == nil {
		e = l.envoy(xdsim.Mode{}, state)
	}
	want := map[string]map[string]string{}
	for _, typ := range types {
		want[typ] = map[string]string{}
	}
	for _, g := range wish {
		for _, x := range g.Resources {
			want[x.Type][x.Name] = x.Version
		}
	}
	l.until("equal", func() bool {
		for typ, names := range want {
			held := e.Held(typ)
			if len(held) != len(names) {
				return false
			}
			for n, v := range names {
				if held[n] != v {
					return false
				}
			}
		}
		return true
	})
	l.until("acknowledged", func() bool { return l.row().Unacked.IsZero() && !l.row().Waiting })
	l.fine(e)
}
