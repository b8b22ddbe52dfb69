package file

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/kerege/kerege/config"
	"github.com/kerege/kerege/mesh"
)

func unchecked(*config.Mesh) config.Diagnostics { return nil }

// deep is a source with generations 1 to n on disk, each of one service sN.
type deep struct {
	t    *testing.T
	file string
	opt  Options
	*Source
	next func() mesh.Part
	end  func() error
}

func newDeep(t *testing.T, n int) *deep {
	dir := t.TempDir()
	d := &deep{t: t, file: filepath.Join(dir, "mesh", "a.hcl"), opt: Options{Paths: []string{filepath.Join(dir, "mesh")}, State: filepath.Join(dir, "mesh.json")}}
	os.Mkdir(filepath.Dir(d.file), 0o755)
	write(t, d.file, block("s1"))
	d.Source, d.next, d.end = run(t, d.opt)
	wantServices(t, d.next(), "s1")
	for i := 2; i <= n; i++ {
		write(t, d.file, block(fmt.Sprintf("s%d", i)))
		d.do(func() error { return errOf(d.Apply(t.Context())) })
		d.now(uint64(i), 0, fmt.Sprintf("s%d", i))
	}
	return d
}

func errOf(_ Step, diags config.Diagnostics, err error) error { return errors.Join(err, diags.Err()) }

// do runs what waits for the hub, and is the hub.
func (d *deep) do(f func() error) {
	d.t.Helper()
	done := make(chan error, 1)
	go func() { done <- f() }()
	d.next()
	if err := <-done; err != nil {
		d.t.Fatal(err)
	}
}

func (d *deep) now(counter, of uint64, service string) {
	d.t.Helper()
	gen, m := d.Current()
	if gen.Counter != counter || d.RolledBack() != of || len(m.Services) != 1 || string(m.Services[0].Name) != service {
		d.t.Fatalf("generation %d, rolled back to %d, %v; want %d, %d, %s", gen.Counter, d.RolledBack(), m.Services, counter, of, service)
	}
}

func (d *deep) restart() {
	d.t.Helper()
	d.end()
	d.Source, d.next, d.end = run(d.t, d.opt)
	d.next()
}

func TestRollback(t *testing.T) {
	d := newDeep(t, 3)
	if n := d.Before(); n != 2 {
		t.Errorf("before 3 there was %d", n)
	}
	d.do(func() error { return errOf(d.Rollback(t.Context(), 2, unchecked)) })
	d.now(4, 2, "s2")
	if n := d.Before(); n != 1 {
		t.Errorf("a second rollback would go to %d, not further back", n)
	}
	if len(d.Differs()) != 1 || d.Report().State != mesh.SourceOK {
		t.Errorf("differs %v, report %+v", d.Differs(), d.Report())
	}

	// A restart does not bring the newer text back, however often, nor one that is wrong.
	applied := d.Applied()
	d.restart()
	d.now(4, 2, "s2")
	if !d.Applied().Equal(applied) || d.Report().Since.IsZero() {
		t.Errorf("applied at %v, not %v; report %+v", d.Applied(), applied, d.Report())
	}
	write(t, d.file, "service \"broken\"")
	d.restart()
	d.now(4, 2, "s2")
	if d.Report().State != mesh.SourceOK || len(d.Differs()) != 1 {
		t.Errorf("report %+v, differs %v", d.Report(), d.Differs())
	}

	// To apply the files is to say that they are meant.
	write(t, d.file, block("s3"))
	d.do(func() error { return errOf(d.Apply(t.Context())) })
	d.now(5, 0, "s3")
	d.restart()
	d.now(5, 0, "s3")
	write(t, d.file, block("s6")) // as ever without a rollback
	d.restart()
	d.now(6, 0, "s6")

	// Files that have become what is in force need no apply.
	d.do(func() error { return errOf(d.Rollback(t.Context(), 1, unchecked)) })
	d.now(7, 1, "s1")
	write(t, d.file, block("s1"))
	d.restart()
	d.now(7, 0, "s1")
	var seen []string
	for _, p := range d.History() {
		seen = append(seen, fmt.Sprint(p.Counter, p.Of, p.Files))
	}
	if got := fmt.Sprint(seen); got != "[7 1 1 6 0 1 5 0 1 4 2 1 3 0 1 2 0 1 1 0 1]" {
		t.Errorf("history %s", got)
	}
}

func TestRollbackThatIsNone(t *testing.T) {
	d := newDeep(t, 2)
	if _, _, err := d.Rollback(t.Context(), 9, unchecked); !errors.Is(err, ErrNoGeneration) {
		t.Errorf("to what is not kept: %v", err)
	}
	_, diags, err := d.Rollback(t.Context(), 1, func(*config.Mesh) config.Diagnostics {
		return config.Diagnostics{{Severity: config.Error, Message: "no"}}
	})
	if err != nil || !diags.HasErrors() {
		t.Errorf("to what the server refuses: %v, %v", diags, err)
	}
	d.now(2, 0, "s2")
	if err := errOf(d.Rollback(t.Context(), 2, unchecked)); err != nil { // nothing to wait for
		t.Error(err)
	}
	d.now(2, 0, "s2")
	write(t, d.pastFile(1), "{")
	if _, _, err := d.Rollback(t.Context(), 1, unchecked); err == nil {
		t.Error("a damaged generation is taken")
	}
	if got := d.History(); len(got) != 1 || got[0].Counter != 2 {
		t.Errorf("history %+v", got)
	}
	// A lost state does not give a number twice.
	d.end()
	if err := os.Remove(d.opt.State); err != nil {
		t.Fatal(err)
	}
	d.Source, d.next, d.end = run(t, d.opt)
	d.next()
	d.now(3, 0, "s2")
}

func TestGenerationsAreBounded(t *testing.T) {
	d := newDeep(t, keptGenerations+3)
	all := d.History()
	if len(all) != keptGenerations || all[0].Counter != keptGenerations+3 || all[len(all)-1].Counter != 4 {
		t.Errorf("%d are kept, from %d", len(all), all[len(all)-1].Counter)
	}
	// A state of a version that had no history is there to be gone back to.
	d.end()
	os.RemoveAll(d.pastDir())
	d.Source, d.next, d.end = run(t, d.opt)
	d.next()
	if all := d.History(); len(all) != 1 || all[0].Counter != keptGenerations+3 {
		t.Errorf("history %+v", all)
	}
}

// Watched files that change after a rollback are meant.
func TestRollbackOfWatchedFiles(t *testing.T) {
	d := newDeep(t, 2)
	d.opt.Watch = true
	d.restart()
	d.do(func() error { return errOf(d.Rollback(t.Context(), 1, unchecked)) })
	d.now(3, 1, "s1")
	if _, err := d.Load(); err != nil { // as at a look
		t.Error(err)
	}
	d.now(3, 1, "s1")
	write(t, d.file, block("s4"))
	wantServices(t, d.next(), "s4")
	d.now(4, 0, "s4")
}
