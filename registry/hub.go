package registry

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/kerege/kerege/mesh"
)

// Options of a Hub. The zero value of each is its default.
type Options struct {
	Logger  hclog.Logger
	DataDir string // durable state; "" keeps nothing on disk (tests, `kerege dev`)

	// Grace is how long a source may be silent at the start before its last-good
	// file stands in for it; default 10 s. A source without one is waited for.
	Grace time.Duration

	// Quiet and Max are how long the hub collects changes: until nothing new has
	// come for Quiet (default 10 ms), Max (default 250 ms) at most. The first
	// change after a quiet time is applied at once, unless NoLeadingEdge.
	Quiet, Max    time.Duration
	NoLeadingEdge bool

	// PanicHold is how long the shrink guard keeps what a mass loss would
	// remove; default 30 s. DeregisterGrace (default 10 s) is how long it is then
	// shown as unhealthy before it goes.
	PanicHold, DeregisterGrace time.Duration

	// RetainFor is how long a caller still sees a destination whose right it
	// lost; default 1 h.
	RetainFor time.Duration

	// MemberExpiry is how long a member counts whose agent is not heard of;
	// default 72 h.
	MemberExpiry time.Duration

	Now func() time.Time
}

// Hub is the only writer of the mesh's snapshot.
type Hub struct {
	opt     Options
	log     hclog.Logger
	members *Members

	snap  atomic.Pointer[mesh.Snapshot]
	poke  chan struct{}
	ready chan struct{}

	changes chan struct{}
	takeMu  sync.Mutex
	keys    map[mesh.Key]bool // published since the last Take

	mu       sync.Mutex
	inbox    map[partKey]mesh.Part
	first    time.Time // when the oldest part in the inbox came
	last     time.Time // and the newest
	queued   uint64    // parts ever put into the inbox
	applied  uint64    // of them, those in the writer's snapshot
	settled  chan struct{}
	confirms map[string]bool
	runners  []*runner
	started  time.Time
	holds    []Hold
	flapping map[string][]string
}

// partKey names what a Part replaces.
type partKey struct{ source, scope string }

func keyOf(p mesh.Part) partKey { return partKey{p.Source, p.Scope} }

// New makes a hub and reads its members' file. A damaged file is kept aside and
// reported in the log.
func New(opt Options) *Hub {
	if opt.Logger == nil {
		opt.Logger = hclog.NewNullLogger()
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	for _, d := range []struct {
		v *time.Duration
		d time.Duration
	}{
		{&opt.Grace, 10 * time.Second}, {&opt.Quiet, 10 * time.Millisecond}, {&opt.Max, 250 * time.Millisecond},
		{&opt.PanicHold, 30 * time.Second}, {&opt.DeregisterGrace, 10 * time.Second},
		{&opt.RetainFor, time.Hour}, {&opt.MemberExpiry, 72 * time.Hour},
	} {
		if *d.v == 0 {
			*d.v = d.d
		}
	}
	h := &Hub{
		opt: opt, log: opt.Logger, poke: make(chan struct{}, 1), ready: make(chan struct{}),
		changes: make(chan struct{}, 1), keys: map[mesh.Key]bool{}, inbox: map[partKey]mesh.Part{},
		settled: make(chan struct{}), confirms: map[string]bool{}, flapping: map[string][]string{},
	}
	h.snap.Store(&mesh.Snapshot{})
	h.members = newMembers(h)
	return h
}

// Run watches the sources and writes snapshots until ctx ends; it returns once
// all it started has stopped and the last good answer is on disk. It runs once.
func (h *Hub) Run(ctx context.Context, sources ...Source) error {
	h.mu.Lock()
	if !h.started.IsZero() {
		h.mu.Unlock()
		return errors.New("running the registry hub: it has run already")
	}
	h.started = h.opt.Now()
	for _, s := range sources {
		h.runners = append(h.runners, &runner{src: s, scopes: map[string]bool{}})
	}
	h.mu.Unlock()
	w, err := newWriter(h)
	if err != nil {
		return err
	}
	inner, stop := context.WithCancel(ctx)
	defer stop()
	var watching sync.WaitGroup
	for _, r := range h.runners {
		watching.Go(func() { h.run(inner, r) })
	}
	w.loop(ctx)
	stop()
	watching.Wait()
	return w.close()
}

// Put replaces parts that no Source watches: the CA's bundle, settings. It never
// blocks; Settle waits for the effect.
func (h *Hub) Put(parts ...mesh.Part) {
	now := h.opt.Now()
	for _, p := range parts {
		h.enqueue(now, p)
	}
}

// Settle waits until all that was put or reported before the call is in the
// snapshot (which is published only once the hub is ready), or ctx ends. What
// the shrink guard holds and what flaps counts as settled.
func (h *Hub) Settle(ctx context.Context) error {
	h.mu.Lock()
	var lives []*life
	for _, r := range h.runners {
		if r.life != nil {
			lives = append(lives, r.life)
		}
	}
	h.mu.Unlock()
	for _, l := range lives { // a part may be on its way from its source to the inbox
		select {
		case l.pass <- struct{}{}:
		case <-l.over:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	h.mu.Lock()
	want := h.queued
	for h.applied < want {
		wait := h.settled
		h.mu.Unlock()
		select {
		case <-wait:
		case <-ctx.Done():
			return ctx.Err()
		}
		h.mu.Lock()
	}
	h.mu.Unlock()
	return nil
}

// Snapshot is the current snapshot, never nil; it is empty until Ready.
func (h *Hub) Snapshot() *mesh.Snapshot { return h.snap.Load() }

// Ready is closed when every source has spoken, or its last-good file stands in
// for it.
func (h *Hub) Ready() <-chan struct{} { return h.ready }

// Waiting says what the hub waits for before it is ready; "" when it is.
func (h *Hub) Waiting() string {
	select {
	case <-h.ready:
		return ""
	default:
	}
	for _, s := range h.Status() {
		if !s.Spoken {
			return "waiting for " + s.Name + ": " + cmp.Or(s.Err, "it has not said all it knows yet")
		}
	}
	return "waiting for the first snapshot"
}

// Changes has one token when there is something to Take. A Take in between may
// have had it already: the next one is then empty.
func (h *Hub) Changes() <-chan struct{} { return h.changes }

// Take gives the current snapshot and, sorted, all keys that changed since the
// last Take; the first Take gives every key there is.
func (h *Hub) Take() (*mesh.Snapshot, []mesh.Key) {
	h.takeMu.Lock()
	defer h.takeMu.Unlock()
	keys := slices.SortedFunc(maps.Keys(h.keys), mesh.Key.Compare)
	clear(h.keys)
	return h.snap.Load(), keys
}

// Members is the durable table of who is in the mesh.
func (h *Hub) Members() *Members { return h.members }

// Wanted lists the registries' names that the mesh's own configuration or
// membership speaks of: a source that cannot watch every service begins there.
func (h *Hub) Wanted() []string {
	snap := h.Snapshot()
	set := map[string]bool{}
	for _, name := range snap.Services() {
		svc := snap.Service(name)
		in := slices.ContainsFunc(snap.Instances(name), func(i *mesh.Instance) bool { return i.In })
		if svc == nil || svc.Pos == (mesh.Pos{}) && !in && len(snap.Labelled(string(name))) == 0 {
			continue
		}
		set[string(name)] = true
		for _, ref := range svc.Sources {
			if ref.Service != "" {
				set[ref.Service] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(set))
}

func (h *Hub) enqueue(now time.Time, p mesh.Part) {
	h.mu.Lock()
	if len(h.inbox) == 0 {
		h.first = now
	}
	h.inbox[keyOf(p)] = p
	h.last = now
	h.queued++
	h.mu.Unlock()
	h.wake()
}

func (h *Hub) wake() {
	select {
	case h.poke <- struct{}{}:
	default:
	}
}

// publish makes a snapshot everybody's.
func (h *Hub) publish(s *mesh.Snapshot, keys []mesh.Key) {
	h.takeMu.Lock()
	h.snap.Store(s)
	for _, k := range keys {
		h.keys[k] = true
	}
	h.takeMu.Unlock()
	select {
	case h.changes <- struct{}{}:
	default:
	}
}
