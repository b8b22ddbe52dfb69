package agent

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/kerege/kerege/config"
)

// Two agents on one data_dir would write each other's state over: the second is
// refused, by name of the first, and comes up once that has ended.
func TestOneAgentADataDir(t *testing.T) {
	dir := t.TempDir()
	cfg := func(run string) *config.Agent { return &config.Agent{Node: "vm-1", DataDir: dir, RunDir: run} }
	first, err := New(cfg(t.TempDir()), Options{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = New(cfg(t.TempDir()), Options{})
	if err == nil || !strings.Contains(err.Error(), dir) || !strings.Contains(err.Error(), fmt.Sprintf("(process %d)", os.Getpid())) {
		t.Errorf("a second agent on %s: %v", dir, err)
	}
	ended, end := context.WithCancel(context.Background())
	end()
	_ = first.Run(ended) // whatever it says, it lets go
	third, err := New(cfg(t.TempDir()), Options{})
	if err != nil {
		t.Fatal("after the first has ended: ", err)
	}
	third.lock.Close()
}

// A killed agent's lock may outlive it for a moment.
func TestALockThatIsLetGoIsWaitedFor(t *testing.T) {
	dir := t.TempDir()
	first, err := lockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(50*time.Millisecond, func() { first.Close() })
	defer timer.Stop()
	second, err := lockDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	second.Close()
}
