package identity

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/kerege/kerege/agent/seal"
	"github.com/kerege/kerege/mesh"
)

// ErrNotJoined says that this node has no identity yet.
var ErrNotJoined = errors.New("this host has not joined a mesh: `kerege join` does that, with a token from `kerege token create`")

// Options of a Manager.
type Options struct {
	Dir  string   // of the sealed files
	Key  seal.Key // that seals them
	Log  hclog.Logger
	Now  func() time.Time
	Rand func() float64 // from 0 to 1, for jitter
	// Evidence is what a workload shows of itself, a secret; "" and nil: nothing.
	Evidence func(Workload) string
}

// Workload names one holder of a service's identity on this node. The zero
// Workload is the node itself.
type Workload struct {
	Service  mesh.ServiceName
	Workload string // the Nomad allocation; "" on a plain host
}

func (w Workload) String() string {
	switch {
	case w == Workload{}:
		return "node"
	case w.Workload == "":
		return string(w.Service)
	}
	return string(w.Service) + "/" + w.Workload
}

// Mesh is what a node knows of the mesh it joined.
type Mesh struct {
	TrustDomain string   `json:"trust_domain"`
	Node        string   `json:"node"`
	Servers     []string `json:"servers"` // host:port
	Bundle      []byte   `json:"bundle"`  // PEM
}

func (m *Mesh) bundle() []byte {
	if m == nil {
		return nil
	}
	return m.Bundle
}

// Manager holds the node's identities. It is safe for concurrent use.
type Manager struct {
	opt  Options
	poke chan struct{} // capacity 1: Run looks again

	mu      sync.Mutex
	mesh    Mesh
	pool    *x509.CertPool // of mesh.Bundle; nil before the node joined
	trouble string         // why the node's file could not be believed
	held    map[Workload]*entry
}

// entry is one identity, held or wanted.
type entry struct {
	svid    *SVID // nil: wanted, not there yet
	renew   time.Time
	tried   time.Time // last, by the wall clock; zero: never
	wait    time.Duration
	fails   int
	err     string
	warned  bool
	changed chan struct{} // closed when svid or the bundle is another
}

// New opens what is on disk. It fails only where the directory cannot be used at
// all; files that cannot be believed are moved aside and logged.
func New(opt Options) (*Manager, error) {
	if opt.Log == nil {
		opt.Log = hclog.NewNullLogger()
	}
	if opt.Now == nil {
		opt.Now = func() time.Time { return time.Now().Round(0) } // the wall clock, also after a sleep
	}
	if opt.Rand == nil {
		opt.Rand = rand.Float64
	}
	m := &Manager{opt: opt, poke: make(chan struct{}, 1), held: map[Workload]*entry{}}
	return m, m.load()
}

func (m *Manager) add(w Workload, s *SVID) {
	m.held[w] = &entry{svid: s, renew: s.renewal(m.opt.Rand()), changed: make(chan struct{})}
}

// Mesh is what is known of the mesh; ok is whether this node has joined one.
func (m *Manager) Mesh() (v Mesh, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.mesh, m.pool != nil
}

// Trouble is a sentence when the node's identity was on disk and could not be
// believed; "" otherwise.
func (m *Manager) Trouble() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.trouble
}

// Node is the node's own identity; nil before it joined.
func (m *Manager) Node() *SVID { return m.Get(Workload{}) }

// Get is a workload's identity, expired or not; nil where there is none yet.
func (m *Manager) Get(w Workload) *SVID {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.held[w]; e != nil {
		return e.svid
	}
	return nil
}

// Want asks for identities and keeps them fresh until Forget.
func (m *Manager) Want(list ...Workload) {
	m.mu.Lock()
	for _, w := range list {
		if m.held[w] == nil && w != (Workload{}) {
			m.held[w] = &entry{changed: make(chan struct{})}
		}
	}
	m.mu.Unlock()
	m.look()
}

// Retry asks for a workload's identity at once where the last try failed: what
// it shows of itself is new.
func (m *Manager) Retry(w Workload) {
	m.mu.Lock()
	if e := m.held[w]; e != nil && e.fails > 0 {
		e.wait = 0
	}
	m.mu.Unlock()
	m.look()
}

// Forget drops an identity, on disk too.
func (m *Manager) Forget(w Workload) error {
	if w == (Workload{}) {
		return errors.New("forgetting an identity: the node's own goes only by leaving")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.held[w]; e != nil {
		delete(m.held, w)
		close(e.changed)
	}
	return remove(filepath.Join(m.opt.Dir, w.file()))
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("forgetting an identity: %w", err)
	}
	return nil
}

// Leave drops every identity and what is known of the mesh.
func (m *Manager) Leave() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	var errs []error
	for w, e := range m.held {
		name := w.file()
		if w == (Workload{}) {
			name = nodeFile
		}
		errs = append(errs, remove(filepath.Join(m.opt.Dir, name)))
		delete(m.held, w)
		close(e.changed)
	}
	m.mesh, m.pool = Mesh{}, nil
	return errors.Join(errs...)
}

// Update takes in the bundle and the servers as a server says them; an empty one
// is "not said". Proxies get a new bundle at once. An error is a bundle that
// cannot be used; the old one stays.
func (m *Manager) Update(bundle []byte, servers []string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.pool == nil {
		return ErrNotJoined
	}
	next := m.mesh
	if len(servers) > 0 {
		next.Servers = slices.Clone(servers)
	}
	pool := m.pool
	if len(bundle) > 0 && string(bundle) != string(next.Bundle) {
		var err error
		if pool, _, err = poolOf(bundle); err != nil {
			return err
		}
		next.Bundle = slices.Clone(bundle)
	}
	if string(next.Bundle) == string(m.mesh.Bundle) && slices.Equal(next.Servers, m.mesh.Servers) {
		return nil
	}
	other := string(next.Bundle) != string(m.mesh.Bundle)
	m.mesh, m.pool = next, pool
	m.keepNode()
	if other {
		for _, e := range m.held {
			e.tell()
		}
	}
	return nil
}

// keepNode writes the node's file. A disk that cannot be written to is said, and
// the node goes on from memory.
func (m *Manager) keepNode() {
	e := m.held[Workload{}]
	if e == nil || e.svid == nil {
		return
	}
	v := m.mesh
	if err := m.write(nodeFile, saved{Mesh: &v}, e.svid); err != nil {
		m.opt.Log.Error("the node's identity is not on disk; it goes on from memory and is lost with a restart", "error", err)
	}
}

// tell wakes whoever watches an entry.
func (e *entry) tell() {
	close(e.changed)
	e.changed = make(chan struct{})
}

// Source gives a proxy what its socket serves.
type Source struct {
	m *Manager
	w Workload
}

// Source of one workload's secrets, for agent/sds. It is wanted from here on, and
// has nothing more after Forget.
func (m *Manager) Source(w Workload) Source {
	m.Want(w)
	return Source{m, w}
}

// Secrets are the workload's chain, key and the trusted roots as PEM, all empty
// where there is no identity yet; changed is closed once they are others.
func (s Source) Secrets() (chain, key, bundle []byte, changed <-chan struct{}) {
	s.m.mu.Lock()
	defer s.m.mu.Unlock()
	e := s.m.held[s.w]
	switch {
	case e == nil:
		return nil, nil, nil, nil
	case e.svid == nil:
		return nil, nil, nil, e.changed
	}
	return e.svid.ChainPEM(), e.svid.KeyPEM(), s.m.mesh.Bundle, e.changed
}

// Status is one identity and how it fares.
type Status struct {
	Workload Workload
	ID       mesh.Identity
	State    string // waiting fresh retrying expired early
	NotAfter time.Time
	Renew    time.Time // when the next is asked for
	Error    string    // of the last try; "" it went well
}

// Status lists all identities, the node's first, the rest by name.
func (m *Manager) Status() []Status {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.opt.Now()
	var list []Status
	for w, e := range m.held {
		s := Status{Workload: w, State: e.state(now), Renew: e.due(now), Error: e.err}
		if e.svid != nil {
			s.ID, s.NotAfter = e.svid.ID, e.svid.NotAfter
		}
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b Status) int {
		return cmp.Or(cmp.Compare(a.Workload.Service, b.Workload.Service), cmp.Compare(a.Workload.Workload, b.Workload.Workload))
	})
	return list
}

func (e *entry) state(now time.Time) string {
	switch {
	case e.svid == nil:
		return "waiting"
	case now.After(e.svid.NotAfter):
		return "expired"
	case now.Before(e.svid.leaf.NotBefore):
		return "early" // this host's clock is behind the one of the issuer
	case e.fails > 0:
		return "retrying"
	}
	return "fresh"
}

// look makes Run look again now.
func (m *Manager) look() {
	select {
	case m.poke <- struct{}{}:
	default:
	}
}

// Wait returns when a workload has an identity that is valid now, or the
// context's error.
func (m *Manager) Wait(ctx context.Context, w Workload) error {
	m.Want(w)
	for {
		m.mu.Lock()
		e := m.held[w]
		ready := e != nil && e.svid != nil && !m.opt.Now().After(e.svid.NotAfter)
		var changed <-chan struct{}
		if e != nil {
			changed = e.changed
		}
		m.mu.Unlock()
		if ready {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
