package file

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kerege/kerege/config"
)

// Generations that are kept, the current one among them: as many as these, and
// as many as fit these bytes, but always two.
const (
	keptGenerations = 30
	keptBytes       = 64 << 20
)

// Past is a generation that is kept on disk.
type Past struct {
	Generation
	Since time.Time
	Files int
	Of    uint64 // the generation that it is again, by a rollback; 0: files that were applied
}

// ErrNoGeneration is wrapped when a generation is asked for that is not kept.
var ErrNoGeneration = errors.New("no such generation is kept")

// History lists the kept generations, the newest first; empty where none are kept.
func (s *Source) History() []Past {
	var all []Past
	for _, n := range slices.Backward(s.counters()) {
		k, err := s.readPast(n)
		if err != nil {
			s.log.Error("a kept generation cannot be read", "generation", n, "error", err)
			continue
		}
		all = append(all, Past{Generation: k.Generation, Since: k.Since, Files: len(k.Files), Of: k.Of})
	}
	return all
}

// RolledBack is the generation that the current one is again, with the files on
// disk passed over until they are applied; 0: there was no rollback.
func (s *Source) RolledBack() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pin.Of
}

// Before is the generation that a rollback without a number means: the newest that
// is older than what is in force, and not the same text. 0: none is kept.
func (s *Source) Before() uint64 {
	gen, _ := s.Current()
	base := gen.Counter
	if of := s.RolledBack(); of > 0 {
		base = of
	}
	for _, p := range s.History() {
		if p.Counter < base && p.Hash != gen.Hash {
			return p.Counter
		}
	}
	return 0
}

// Past is what a kept generation means to this version of kerege. The findings
// say why it means nothing any more.
func (s *Source) Past(n uint64) (*config.Mesh, config.Diagnostics, error) {
	k, err := s.readPast(n)
	if err != nil {
		return nil, nil, err
	}
	m, diags := config.LoadBytes(k.Files)
	if m != nil {
		if m.Hash != k.Hash {
			return nil, nil, fmt.Errorf("reading generation %d: it is damaged: its hash does not fit", n)
		}
		diags = append(diags, m.Unsupported...)
	}
	return m, diags, nil
}

// Rollback makes a kept generation the next one, whatever the files on disk say,
// and whatever the registries do. They are passed over from then on, over restarts
// too, until they are applied (or, where they are watched, until they change).
// check is Options.Check of it. It returns once the hub has it.
func (s *Source) Rollback(ctx context.Context, n uint64, check func(*config.Mesh) config.Diagnostics) (Step, config.Diagnostics, error) {
	step, diags, err := s.rollback(n, check)
	if err != nil || diags.HasErrors() {
		return step, diags, err
	}
	return step, diags, s.arrived(ctx, step.Now.Counter)
}

func (s *Source) rollback(n uint64, check func(*config.Mesh) config.Diagnostics) (Step, config.Diagnostics, error) {
	s.applying.Lock()
	defer s.applying.Unlock()
	m, diags, err := s.Past(n)
	if err != nil {
		return s.still(), nil, err
	}
	if m != nil {
		diags = append(diags, check(m)...)
	}
	if diags.HasErrors() {
		return s.still(), diags, nil
	}
	instead := ""
	if now, _ := config.Load(s.opt.Paths...); now != nil {
		instead = now.Hash
	}
	step, err := s.accept(m, pin{Of: n, Instead: instead})
	return step, diags, err
}

// pin keeps the files on disk from being applied by themselves after a rollback.
type pin struct {
	Of      uint64 `json:",omitempty"` // the generation that is in force again
	Instead string `json:",omitempty"` // hash of the files on disk then; "" where they were wrong
}

// holds says whether files with this hash are passed over.
func (p pin) holds(hash string, watched bool) bool {
	return p.Of > 0 && (!watched || hash == p.Instead)
}

func (s *Source) pastDir() string { return s.opt.State + ".past" }

func (s *Source) pastFile(n uint64) string {
	return filepath.Join(s.pastDir(), strconv.FormatUint(n, 10)+".json")
}

// counters are the kept generations, sorted.
func (s *Source) counters() []uint64 {
	if s.opt.State == "" {
		return nil
	}
	entries, _ := os.ReadDir(s.pastDir())
	var all []uint64
	for _, e := range entries {
		name, is := strings.CutSuffix(e.Name(), ".json")
		if n, err := strconv.ParseUint(name, 10, 63); is && err == nil { // 63 bits: the API says it as an int
			all = append(all, n)
		}
	}
	slices.Sort(all)
	return all
}

// newest is the last number that was given, should the state itself be lost. A
// file that is no generation has only its name to say for itself.
func (s *Source) newest() uint64 {
	for _, n := range slices.Backward(s.counters()) {
		if _, err := s.readPast(n); err == nil {
			return n
		}
	}
	return 0
}

func (s *Source) readPast(n uint64) (kept, error) {
	var k kept
	if s.opt.State == "" {
		return k, fmt.Errorf("%w: generation %d", ErrNoGeneration, n)
	}
	text, err := os.ReadFile(s.pastFile(n))
	if errors.Is(err, fs.ErrNotExist) {
		return k, fmt.Errorf("%w: generation %d", ErrNoGeneration, n)
	}
	if err == nil {
		err = json.Unmarshal(text, &k)
	}
	if err == nil && (k.Version != stateVersion || k.Counter != n) {
		err = errors.New("it is of another version, or damaged")
	}
	if err != nil {
		return k, fmt.Errorf("reading generation %d: %w", n, err)
	}
	return k, nil
}

// remember puts a generation among those that a rollback can bring back, and
// forgets the oldest.
func (s *Source) remember(added uint64, text []byte) error {
	if err := s.replace(s.pastFile(added), text); err != nil {
		return err
	}
	bytes, count := int64(0), 0
	for _, n := range slices.Backward(s.counters()) {
		info, err := os.Stat(s.pastFile(n))
		if err != nil {
			continue
		}
		count++
		if bytes += info.Size(); n != added && count > 2 && (count > keptGenerations || bytes > keptBytes) {
			if err := os.Remove(s.pastFile(n)); err != nil {
				s.log.Warn("an old generation is not removed", "generation", n, "error", err)
			}
		}
	}
	return nil
}
