package envoy

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestARegionIsOfOneLauncherAndLeavesNothing(t *testing.T) {
	dir, shm := shortDir(t), t.TempDir()
	first, err := openRegion(dir, shm)
	if err != nil {
		t.Fatal(err)
	}
	other, err := openRegion(shortDir(t), shm)
	if err != nil || other.base == first.base {
		t.Fatalf("%v: two with %d", err, other.base)
	}
	if err := os.WriteFile(filepath.Join(dir, "hot_parent_10"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	// The first launcher was killed; the next one takes away what it has left.
	second, err := openRegion(dir, shm)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(first.memory()); !errors.Is(err, os.ErrNotExist) {
		t.Error("the memory of a launcher that was killed stays:", err)
	}
	second.close()
	if left, _ := filepath.Glob(dir + "/*"); len(left) > 0 {
		t.Error("left:", left)
	}
	if left, _ := filepath.Glob(shm + "/*"); !slices.Equal(left, []string{other.memory()}) {
		t.Error("left:", left)
	}
}

func TestTheMarkOfOneThatDiedIsTakenBack(t *testing.T) {
	r, err := openRegion(shortDir(t), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	memory := func(size, version, flags uint64) []byte {
		b := make([]byte, regionSize)
		binary.NativeEndian.PutUint64(b, size)
		binary.NativeEndian.PutUint64(b[versionAt:], version)
		binary.NativeEndian.PutUint64(b[flagsAt:], flags)
		return b
	}
	for _, c := range []struct {
		before, after []byte
		fails         bool
	}{
		{memory(104, 11, 1), memory(104, 11, 0), false},
		{memory(104, 11, 0), memory(104, 11, 0), false},
		{memory(104, 11, 3), memory(104, 11, 2), false},
		{memory(104, 12, 1), memory(104, 12, 1), true}, // of a layout that is not known
		{memory(112, 11, 1), memory(112, 11, 1), true},
		{append(memory(104, 11, 1), 0), append(memory(104, 11, 1), 0), true},
		{nil, nil, true},
	} {
		if err := os.WriteFile(r.memory(), c.before, 0o600); err != nil {
			t.Fatal(err)
		}
		err := r.settle()
		if got, _ := os.ReadFile(r.memory()); string(got) != string(c.after) || (err != nil) != c.fails {
			t.Errorf("% x: % x, %v", c.before, got, err)
		}
	}
}

func TestCallersAreThoseOfTheListeningPorts(t *testing.T) {
	proc := t.TempDir()
	process := func(pid string, inodes ...string) {
		dir := filepath.Join(proc, pid, "fd")
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		for n, inode := range inodes {
			if err := os.Symlink("socket:["+inode+"]", filepath.Join(dir, string(rune('0'+n)))); err != nil {
				t.Fatal(err)
			}
		}
	}
	process("10", "101", "102", "103", "104") // the one before
	process("20", "201", "202")               // its successor listens at 1F90
	table := "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
	for _, s := range [][3]string{
		{"0A", "0100007F:1F90", "201"}, {"01", "0100007F:1F90", "202"}, // the successor's own
		{"01", "0100007F:1F90", "101"}, {"08", "0100007F:1F90", "102"}, // callers of the one before
		{"06", "0100007F:1F90", "103"}, // waits for nobody
		{"01", "0100007F:C350", "104"}, // it calls somebody
		{"01", "0100007F:1F90", "999"}, // of another program
	} {
		table += "   0: " + s[1] + " 0100007F:D431 " + s[0] + " 00000000:00000000 00:00000000 00000000     0        0 " + s[2] + " 1\n"
	}
	if err := os.MkdirAll(filepath.Join(proc, "10", "net"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(proc, "10", "net", "tcp"), []byte(table), 0o644); err != nil {
		t.Fatal(err)
	}
	if n, err := callers(proc, 10, 20); n != 2 || err != nil {
		t.Errorf("%d callers, %v", n, err)
	}
	if _, err := callers(proc, 10, 30); err == nil {
		t.Error("a process that is not there has no callers")
	}
}

// A launcher whose host gives no shared memory runs Envoy, and says why it does
// not reload it; one that stops answers who waits.
func TestWhoAsksForAReloadIsAnswered(t *testing.T) {
	dir := shortDir(t)
	f := startAdmin(t, dir)
	socket := AdminSocket(dir)
	kept := dir + "/kept.sock"
	if err := os.Rename(socket, kept); err != nil {
		t.Fatal(err)
	}
	f.set(200, map[string]any{"listener_manager.workers_started": 1, "listener_manager.total_listeners_active": 1})
	ctx, cancel := context.WithCancel(t.Context())
	ready := make(chan struct{})
	var l *Launcher
	l = NewLauncher(Options{Path: program(t, dir, "envoy", "ln "+kept+" "+socket+"; echo \"$@\" > "+dir+"/args; exec sleep 60\n"), Dir: dir,
		Drain: 100 * time.Millisecond, Ready: func() { close(ready) }, Renew: func(context.Context) (Fresh, error) { t.Error("asked what to run"); return Fresh{}, nil }})
	l.shm = dir + "/nowhere"
	result := make(chan error, 1)
	go func() { result <- l.Run(ctx) }()
	select {
	case <-ready:
	case <-time.After(10 * time.Second):
		t.Fatal("not ready")
	}
	if err := Ask(t.Context(), dir); err == nil || !strings.Contains(err.Error(), "shared memory") || !strings.Contains(err.Error(), "serves on") {
		t.Error(err)
	}
	if args, _ := os.ReadFile(dir + "/args"); !strings.Contains(string(args), "--disable-hot-restart") {
		t.Errorf("%s", args)
	}
	cancel()
	if err := <-result; err != nil {
		t.Error(err)
	}
	if err := l.Reload(t.Context()); !errors.Is(err, errStopping) {
		t.Error(err)
	}
	if err := Ask(t.Context(), dir); err == nil || !strings.Contains(err.Error(), "no launcher runs there") {
		t.Error(err)
	}
	if err := NewLauncher(Options{Dir: dir}).Reload(t.Context()); err == nil {
		t.Error("one that has nothing to renew with reloads")
	}
}
