package command

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestSweepRuns(t *testing.T) {
	parent := t.TempDir()
	t.Setenv("TMPDIR", parent)
	make := func(name string, files ...string) string {
		dir := filepath.Join(parent, name)
		for _, f := range append(files, "mesh/a.hcl") {
			if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(f)), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(dir, f), nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Chtimes(filepath.Join(dir, f), time.Time{}, time.Now().Add(-time.Hour)); err != nil {
				t.Fatal(err)
			}
		}
		return dir
	}
	left, old, fresh, other := make("kerege-dev-1", "lock"), make("kerege-dev-2"), make("kerege-dev-3"), make("kerege-2", "lock")
	if err := os.Chtimes(old, time.Time{}, time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	running := make("kerege-dev-4", "lock")
	unlock, err := lockRun(running)
	if err != nil {
		t.Fatal(err)
	}
	if got := sweepRuns(parent); !slices.Equal(got, []string{left, old}) {
		t.Errorf("swept %v", got)
	}
	for _, dir := range []string{fresh, other, running} {
		if _, err := os.Stat(dir + "/mesh/a.hcl"); err != nil {
			t.Errorf("it is gone: %v", err)
		}
	}
	unlock()
	if got := sweepRuns(parent); !slices.Equal(got, []string{running}) {
		t.Errorf("swept %v", got)
	}
	if err := clearRun(other); err == nil || !strings.Contains(err.Error(), "is no folder of a run") {
		t.Errorf("any folder is removed: %v", err)
	}
}
