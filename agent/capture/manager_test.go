package capture

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestAnotherLoginIsNoReasonToWrite(t *testing.T) {
	session := func(local, peer string) Session {
		return Session{netip.MustParseAddrPort(local), netip.MustParseAddrPort(peer)}
	}
	before := sample()
	before.Sessions = []Session{session("10.0.0.2:22", "10.0.0.5:1000")}
	again := sample()
	again.Sessions = []Session{session("10.0.0.2:22", "10.0.0.6:2000")}
	if !same(again.settleSessions(&before), before) {
		t.Error("another session to port 22 makes a new config")
	}
	again.Sessions = append(again.Sessions, session("10.0.0.2:2200", "10.0.0.6:2001"))
	if same(again.settleSessions(&before), before) {
		t.Error("a session to a port that is not left alone is dropped")
	}
	again.Sessions = again.Sessions[:1]
	again.DNS = !again.DNS
	if got := again.settleSessions(&before); len(got.Sessions) != 1 || got.Sessions[0].Peer.Port() != 2000 {
		t.Errorf("where all else is new the sessions are too: %+v", got.Sessions)
	}
}

func TestTheRecordSurvivesItself(t *testing.T) {
	f := stateFile{t.TempDir()}
	c := cases()["lists"]
	want := state{Config: &c, Deadline: time.Unix(1700000000, 0).UTC(), Backends: map[string]string{"": "nft"}, Cgroups: map[string]uint64{"web.slice": 7}, Agent: thisProcess()}
	if err := f.save(want); err != nil {
		t.Fatal(err)
	}
	got, err := f.load()
	if err != nil || !same(*got.Config, c) || !got.Deadline.Equal(want.Deadline) || got.Agent != want.Agent || !got.Agent.alive() {
		t.Errorf("%+v, %v", got, err)
	}
	info, err := os.Stat(f.path())
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	files, err := os.ReadDir(f.dir)
	if err != nil || len(files) != 1 {
		t.Errorf("left beside it: %v, %v", files, err)
	}
	for _, bad := range []string{"", "{", `{"version": 2}`, `[]`} {
		if err := os.WriteFile(f.path(), []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := f.load(); err == nil || !strings.Contains(err.Error(), "capture.json") {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func TestStopsTouchNothing(t *testing.T) {
	dir := t.TempDir()
	m := New(Options{StateDir: dir, Commands: Commands{IPTables: "/nonexistent"}})
	c := sample()
	c.Workloads[0].UIDs = []uint32{0}
	_, err := m.Apply(context.Background(), c, 0)
	if stops, ok := err.(Stops); !ok || len(stops) != 1 {
		t.Fatalf("got %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "capture.json")); err == nil {
		t.Error("a refused apply is recorded")
	}
}

func TestProcessesAreToldApart(t *testing.T) {
	me := thisProcess()
	later := me
	later.Start++
	if !me.alive() || later.alive() || (process{}).alive() || (process{PID: 1 << 30, Start: 1}).alive() {
		t.Errorf("me %+v", me)
	}
}

func TestConnectionTrackingAlmostFull(t *testing.T) {
	for _, c := range []struct {
		tracked, most int
		want          bool
	}{{0, 0, false}, {80, 100, false}, {81, 100, true}, {100, 100, true}, {5, 0, false}} {
		if stop, full := trackingFull(c.tracked, c.most); full != c.want || full != (stop.Mend != "") {
			t.Errorf("%d of %d: %v %+v", c.tracked, c.most, full, stop)
		}
	}
}

func FuzzRecord(f *testing.F) {
	f.Add([]byte(`{"version":1,"config":{"workloads":[{"name":"web","uids":[33],"outbound_port":15001,"inbound_port":15006}],"dns":true}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		file := stateFile{t.TempDir()}
		if err := os.WriteFile(file.path(), text, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := file.load()
		if err != nil || s.Config == nil {
			return
		}
		s.Config.Check()
		Rules(*s.Config)
	})
}
