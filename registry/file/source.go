package file

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/kerege/kerege/config"
	"github.com/kerege/kerege/mesh"
)

// Options of a Source.
type Options struct {
	Paths []string // files, and directories of *.hcl and *.json
	State string   // file that keeps the accepted generation; "" keeps none
	Watch bool     // apply changes without being told
	// Check finds what only the server knows to be wrong with files that are
	// right in themselves; nil checks nothing more.
	Check func(*config.Mesh) config.Diagnostics
	// Part, if not nil, makes the part that is sent of accepted files, instead of
	// Mesh.Part (kerege dev places the instances on its own node).
	Part   func(*config.Mesh) mesh.Part
	Logger hclog.Logger
	Now    func() time.Time
}

// Generation names an accepted set of files.
type Generation struct {
	Counter uint64 // grows by one with each accepted change; 0: none yet
	Hash    string // of the files' names and texts
}

// Source is the "file" source of a hub.
type Source struct {
	opt Options
	log hclog.Logger

	applying sync.Mutex // one load at a time
	loader   config.Loader

	mu        sync.Mutex
	current   *config.Mesh
	gen       Generation
	since     time.Time
	trouble   time.Time
	applied   time.Time // when the generation came into force
	pin       pin
	refused   error         // why what is on disk is not what goes on; nil: it is
	sent      uint64        // counter of the generation that the hub has
	delivered chan struct{} // closed when sent changes
	poke      chan struct{}
	restored  bool

	replace func(path string, text []byte) error // writes a file whole
}

// Step is what one change of the generation did, whatever came after it.
type Step struct {
	Before, Now Generation // the same where nothing changed
	Of          uint64     // the generation that Now is again, by a rollback; 0: files that were applied
}

// New makes a source; nothing is read before Watch or Apply.
func New(opt Options) *Source {
	if opt.Logger == nil {
		opt.Logger = hclog.NewNullLogger()
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.Part == nil {
		opt.Part = (*config.Mesh).Part
	}
	return &Source{opt: opt, log: opt.Logger, poke: make(chan struct{}, 1), delivered: make(chan struct{}), replace: replace}
}

// Name is "file", which is also the source of its part.
func (s *Source) Name() string { return "file" }

// KeepsItself tells the hub that its last-good file need not hold this source.
func (s *Source) KeepsItself() {}

// Watch applies the files, or the generation before where they are refused, and
// reports each generation until ctx ends. With neither it fails, to be started
// again.
func (s *Source) Watch(ctx context.Context, out chan<- mesh.Part) error {
	if _, diags, err := s.load(true); s.now() == nil {
		if err == nil {
			err = diags
		}
		return fmt.Errorf("applying the mesh's files: %w", err)
	}
	var watching sync.WaitGroup
	defer watching.Wait()
	if s.opt.Watch {
		watching.Go(func() { s.follow(ctx) })
	}
	s.wake()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-s.poke:
		}
		s.mu.Lock()
		m, counter := s.current, s.gen.Counter
		s.mu.Unlock()
		select {
		case out <- s.opt.Part(m):
		case <-ctx.Done():
			return nil
		}
		s.mu.Lock()
		s.sent = counter
		close(s.delivered)
		s.delivered = make(chan struct{})
		s.mu.Unlock()
	}
}

// Load reads the files as Watch begins by doing, for a server that must know the
// mesh before it starts: what is refused leaves the kept generation in force.
func (s *Source) Load() (config.Diagnostics, error) {
	_, diags, err := s.load(true)
	return diags, err
}

// Apply reads the files and, when they are right, makes them the next
// generation. It returns once the hub has them, with what there is to say about
// them; an error says that they are right but not in force.
func (s *Source) Apply(ctx context.Context) (Step, config.Diagnostics, error) {
	step, diags, err := s.load(false)
	if err != nil || diags.HasErrors() {
		return step, diags, err
	}
	return step, diags, s.arrived(ctx, step.Now.Counter)
}

// arrived waits until the hub has a generation, or one after it.
func (s *Source) arrived(ctx context.Context, want uint64) error {
	s.mu.Lock()
	for s.sent < want {
		wait := s.delivered
		s.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return fmt.Errorf("applying the mesh's files: %w", ctx.Err())
		}
		s.mu.Lock()
	}
	s.mu.Unlock()
	return nil
}

// Current is the generation in force and its meaning; nil before the first.
// Nobody may change it.
func (s *Source) Current() (Generation, *config.Mesh) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.gen, s.current
}

// Applied is when the generation in force came into force, restarts left aside.
func (s *Source) Applied() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.applied
}

// Report says ok as long as the files last read are the ones in force.
func (s *Source) Report() mesh.SourceReport {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := mesh.SourceReport{State: mesh.SourceOK, Since: s.since, Trouble: s.trouble}
	switch {
	case s.refused != nil:
		r.State, r.Err = mesh.SourceError, fmt.Sprintf("the files are refused, generation %d goes on: %s", s.gen.Counter, s.refused.Error())
	case s.current == nil:
		r.State, r.Err = mesh.SourceStale, "it has not spoken yet"
	}
	if s.current != nil {
		r.Services = len(s.current.Services)
	}
	return r
}

var errEmptied = errors.New("all files are gone, which is taken for a directory that is not mounted; `kerege apply` takes it at its word")

// load reads the files and makes them current. Unless an operator asks, that all
// of them are gone is not believed, and at the start of the server the kept
// generation stands in for files that are refused. The error says that they
// could not be taken although their text is right.
func (s *Source) load(unasked bool) (Step, config.Diagnostics, error) {
	s.applying.Lock()
	defer s.applying.Unlock()
	if unasked {
		s.restore()
	}
	m, diags := s.loader.Load(s.opt.Paths...)
	if m != nil {
		diags = append(diags, m.Unsupported...)
		if s.opt.Check != nil {
			diags = append(diags, s.opt.Check(m)...)
		}
	}
	if unasked && s.passesOver(m) {
		return s.still(), nil, nil
	}
	if diags.HasErrors() {
		s.refuse(diags)
		return s.still(), diags, nil
	}
	if was := s.now(); unasked && was != nil && len(m.Sources) == 0 && len(was.Sources) > 0 {
		s.refuse(errEmptied)
		return s.still(), diags, nil
	}
	step, err := s.accept(m, pin{})
	return step, diags, err
}

// still is the step of what leaves everything as it is. applying is held.
func (s *Source) still() Step {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Step{Before: s.gen, Now: s.gen, Of: s.pin.Of}
}

// passesOver says whether a rollback keeps the files on disk, which nobody asked
// to apply, from being looked at.
func (s *Source) passesOver(m *config.Mesh) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	hash := ""
	if m != nil {
		hash = m.Hash
	}
	held := s.current != nil && s.pin.holds(hash, s.opt.Watch) && hash != s.gen.Hash
	if held {
		s.since = s.opt.Now()
	}
	return held
}

func (s *Source) refuse(why error) {
	s.mu.Lock()
	s.refused, s.trouble = why, s.opt.Now()
	gen := s.gen.Counter
	s.mu.Unlock()
	s.log.Error("the mesh's files are refused; the generation before goes on", "generation", gen, "error", why.Error())
}

// accept makes a mesh the current one, on disk first.
func (s *Source) accept(m *config.Mesh, p pin) (Step, error) {
	s.mu.Lock()
	before, gen, same := s.gen, s.gen, s.current != nil && s.gen.Hash == m.Hash
	if same && p.Of > 0 {
		p.Of = s.pin.Of
		if p.Of == 0 {
			p = pin{} // what is in force is what is asked for
		}
	}
	repin, applied := s.pin != p, s.applied
	s.mu.Unlock()
	if !same {
		applied = s.opt.Now()
		gen = Generation{Counter: max(gen.Counter, s.newest()) + 1, Hash: m.Hash}
	}
	if !same || repin {
		if err := s.keep(gen, applied, m, p); err != nil {
			return s.still(), err
		}
	}
	s.mu.Lock()
	s.since, s.refused, s.pin = s.opt.Now(), nil, p
	if !same {
		s.current, s.gen, s.applied = m, gen, applied
	}
	s.mu.Unlock()
	if !same {
		s.log.Info("a generation of the mesh's files is in force", "generation", gen.Counter, "hash", gen.Hash, "files", len(m.Sources))
		s.wake()
	}
	return Step{Before: before, Now: gen, Of: p.Of}, nil
}

func (s *Source) now() *config.Mesh {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current
}

func (s *Source) wake() {
	select {
	case s.poke <- struct{}{}:
	default:
	}
}
