package agent

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// diary notes what happened in order.
type diary struct {
	mu    sync.Mutex
	lines []string
}

func (d *diary) note(s string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, s)
}

func (d *diary) text() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return strings.Join(d.lines, " ")
}

func TestStepsGoUpInOrderAndDownInReverse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d diary
		fails := 3
		mk := func(name string) step {
			return step{name, func(context.Context) (func(), error) {
				if name == "dns" && fails > 0 {
					fails--
					d.note("!dns")
					return nil, errors.New("port 53 is taken")
				}
				d.note("+" + name)
				return func() { d.note("-" + name) }, nil
			}}
		}
		l := newLadder(hclog.NewNullLogger(), []step{mk("identity"), mk("relay"), mk("dns"), mk("capture")})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); l.run(ctx, func() { d.note("up") }) }()
		time.Sleep(time.Second)
		synctest.Wait()
		if got := d.text(); got != "+identity +relay !dns" {
			t.Errorf("while dns fails: %s", got)
		}
		if err := l.needs("dns"); err == nil || !strings.Contains(err.Error(), "port 53 is taken") {
			t.Errorf("needs dns: %v", err)
		}
		if err := l.needs("capture"); err == nil || !strings.Contains(err.Error(), `waits for its step "dns": port 53 is taken`) {
			t.Errorf("needs capture: %v", err)
		}
		if err := l.needs("relay"); err != nil {
			t.Errorf("the step before a failed one does not stand: %v", err)
		}
		time.Sleep(3 * retryStep)
		synctest.Wait()
		cancel()
		<-done
		if got, want := d.text(), "+identity +relay !dns !dns !dns +dns +capture up -capture -dns -relay -identity"; got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	})
}

func TestAnEndWhileAStepFailsUndoesTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var d diary
		l := newLadder(hclog.NewNullLogger(), []step{
			{"a", func(context.Context) (func(), error) { d.note("+a"); return func() { d.note("-a") }, nil }},
			{"b", func(context.Context) (func(), error) { return nil, errors.New("no") }},
		})
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		l.run(ctx, func() { t.Error("up with a failed step") })
		if d.text() != "+a -a" {
			t.Error(d.text())
		}
	})
}

func TestWhatANodeRemembers(t *testing.T) {
	path := t.TempDir() + "/node.json"
	m := openMemory(path, hclog.NewNullLogger())
	if !m.lost {
		t.Error("a node that never was remembers")
	}
	var slots []int
	for _, k := range []string{"web", "api", "web", "api/alloc-1"} {
		slots = append(slots, m.slot(k))
	}
	m.change(func(s *state) { s.In["web"] = true; s.Names = []name{{Service: "api", V4: "240.0.0.1"}} })
	if err := m.save(); err != nil {
		t.Fatal(err)
	}
	again := openMemory(path, hclog.NewNullLogger())
	if again.lost || !again.now.In["web"] || len(again.now.Names) != 1 || again.slot("api") != slots[1] || again.slot("new") != 3 {
		t.Errorf("after a restart: %+v", again.now)
	}
	if !slices.Equal(slots, []int{0, 1, 0, 2}) {
		t.Errorf("slots %v", slots)
	}
	if err := osWrite(path, `{"version":1,"names":[`); err != nil {
		t.Fatal(err)
	}
	broken := openMemory(path, hclog.NewNullLogger())
	if !broken.lost || len(broken.now.Names) != 0 {
		t.Error("a damaged file was believed")
	}
	if kept := glob(t, path+".refused-*"); len(kept) != 1 {
		t.Errorf("kept %v", kept)
	}
}
