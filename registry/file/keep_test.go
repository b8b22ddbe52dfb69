package file

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/kerege/kerege/config"
)

// A generation that could not be kept is not in force, now or after a restart,
// whichever of its files could not be written.
func TestAChangeThatIsNotKeptIsNone(t *testing.T) {
	for _, which := range []string{"mesh.json", "3.json"} {
		for what, change := range map[string]func(d *deep) error{
			"apply":    func(d *deep) error { write(t, d.file, block("s9")); return errOf(d.Apply(t.Context())) },
			"rollback": func(d *deep) error { return errOf(d.Rollback(t.Context(), 1, unchecked)) },
		} {
			t.Run(what+" without "+which, func(t *testing.T) {
				d := newDeep(t, 2)
				full := true
				d.replace = func(path string, text []byte) error {
					if full && filepath.Base(path) == which {
						return syscall.ENOSPC
					}
					return replace(path, text)
				}
				if err := change(d); !errors.Is(err, syscall.ENOSPC) || !strings.Contains(err.Error(), "keeping generation 3") {
					t.Fatal(err)
				}
				d.now(2, 0, "s2")
				write(t, d.file, "service \"broken\"") // so that a restart goes by what is kept
				d.restart()
				d.now(2, 0, "s2")
				if h := d.History(); len(h) != 2 || h[0].Counter != 2 {
					t.Errorf("history %+v", h)
				}
				write(t, d.file, block("s4"))
				d.do(func() error { return errOf(d.Apply(t.Context())) })
				d.now(3, 0, "s4")
				d.restart()
				d.now(3, 0, "s4")
			})
		}
	}
}

// What is in its place counts, although the disk does not say that it is safe.
func TestAStateThatIsThereIsInForce(t *testing.T) {
	d := newDeep(t, 1)
	d.replace = func(path string, text []byte) error {
		return errors.Join(replace(path, text), map[bool]error{true: syscall.EIO}[path == d.opt.State])
	}
	write(t, d.file, block("s2"))
	d.do(func() error { return errOf(d.Apply(t.Context())) })
	d.now(2, 0, "s2")
	d.restart()
	d.now(2, 0, "s2")
}

// Files that only have the name of a generation do not say which comes next.
func TestAStrayFileIsNoGeneration(t *testing.T) {
	d := newDeep(t, 2)
	for _, n := range []uint64{77, math.MaxInt64, math.MaxUint64} {
		text, err := os.ReadFile(d.pastFile(2))
		if err != nil {
			t.Fatal(err)
		}
		if n == math.MaxUint64 { // even one that is right in itself
			text = bytes.Replace(text, []byte(`"Counter":2`), []byte(fmt.Sprintf(`"Counter":%d`, n)), 1)
		}
		write(t, d.pastFile(n), string(text))
	}
	d.end()
	if err := os.Remove(d.opt.State); err != nil {
		t.Fatal(err)
	}
	d.Source, d.next, d.end = run(t, d.opt)
	d.next()
	d.now(3, 0, "s2")
	if h := d.History(); len(h) != 3 || h[0].Counter != 3 {
		t.Errorf("history %+v", h)
	}
}

// Changes beside each other each tell their own numbers.
func TestAStepIsItsOwn(t *testing.T) {
	d := newDeep(t, 2)
	var mu sync.Mutex
	seen := map[uint64]Step{}
	last := uint64(2)
	var changes sync.WaitGroup
	note := func(step Step, diags config.Diagnostics, err error) {
		if e := errOf(step, diags, err); e != nil {
			t.Error(e)
			return
		}
		if step.Now == step.Before {
			return // the other had done the same
		}
		mu.Lock()
		defer mu.Unlock()
		if other, had := seen[step.Now.Counter]; had {
			t.Errorf("%+v and %+v are the same generation", other, step)
		}
		seen[step.Now.Counter], last = step, max(last, step.Now.Counter)
	}
	changes.Go(func() {
		for range 20 {
			note(d.load(false))
		}
	})
	changes.Go(func() {
		for range 20 {
			note(d.rollback(1, unchecked))
		}
	})
	changes.Wait()
	for n := uint64(3); n <= last; n++ {
		step, is := seen[n]
		if !is || step.Before.Counter != n-1 || (step.Of == 1) == (step.Now.Hash == d.hashOf(2)) {
			t.Errorf("%d: %+v", n, step)
		}
	}
	write(t, d.file, block("last"))
	step, _, err := d.load(false)
	if err != nil || step.Now.Counter != last+1 || step.Of != 0 {
		t.Errorf("%+v %v", step, err)
	}
}

func (d *deep) hashOf(n uint64) string {
	k, err := d.readPast(n)
	if err != nil {
		d.t.Error(err)
	}
	return k.Hash
}
