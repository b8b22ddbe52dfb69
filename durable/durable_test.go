package durable

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// TestMain lets a test run its own binary as a writer that kills itself before
// the n-th change of the disk.
func TestMain(m *testing.M) {
	path := os.Getenv("KEREGE_DURABLE_TEST")
	if path == "" {
		os.Exit(m.Run())
	}
	at, _ := strconv.Atoi(os.Getenv("KEREGE_DURABLE_STEP"))
	n := 0
	err := WriteFileAt(path, bytes.Repeat([]byte("new"), 1<<16), func(string) {
		if n++; n == at {
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	})
	if err != nil {
		os.Exit(1)
	}
	os.Exit(42)
}

func TestKilledAtEveryStep(t *testing.T) {
	for step := 1; ; step++ {
		dir := t.TempDir()
		path := filepath.Join(dir, "state.json")
		if err := WriteFile(path, []byte("old")); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), "KEREGE_DURABLE_TEST="+path, "KEREGE_DURABLE_STEP="+strconv.Itoa(step))
		_ = cmd.Run()
		whole := cmd.ProcessState.ExitCode() == 42
		if !whole && cmd.ProcessState.ExitCode() != -1 {
			t.Fatalf("step %d: %s", step, cmd.ProcessState)
		}
		text, err := os.ReadFile(path)
		if err != nil || string(text) != "old" && !bytes.Equal(text, bytes.Repeat([]byte("new"), 1<<16)) {
			t.Fatalf("step %d: %d bytes, %v", step, len(text), err)
		}
		if err := Sweep(dir); err != nil {
			t.Fatal(err)
		}
		if left, _ := os.ReadDir(dir); len(left) != 1 {
			t.Errorf("step %d: %v is left", step, left)
		}
		if whole {
			if step != 6 || string(text) == "old" {
				t.Errorf("whole after %d steps", step)
			}
			return
		}
	}
}

func TestWriteFile(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "a")
	if err := os.WriteFile(path, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(path, []byte("y")); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o600 {
		t.Errorf("%v %v", info.Mode(), err)
	}
	if err := WriteFile(filepath.Join(dir, "none", "a"), nil); err == nil {
		t.Error("a directory that is not there was written to")
	}
	if err := os.MkdirAll(filepath.Join(dir, "b", "c"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(filepath.Join(dir, "b"), []byte("z")); err == nil {
		t.Error("a directory was replaced")
	}
	list, _ := os.ReadDir(dir)
	for _, e := range list {
		if Leftover(e.Name()) {
			t.Errorf("%s is left", e.Name())
		}
	}
	tmp, err := TempDir(filepath.Join(dir, "d"))
	if err != nil || !Leftover(filepath.Base(tmp)) || !strings.HasPrefix(tmp, dir) {
		t.Errorf("%s %v", tmp, err)
	}
	if err := SyncDir(filepath.Join(dir, "nothing")); err == nil {
		t.Error("a directory that is not there was synced")
	}
}
