package ca

import (
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	keregev1 "github.com/kerege/kerege/api/kerege/v1"
	"github.com/kerege/kerege/mesh"
)

// Options say what an Authority signs. Zero values are the defaults.
type Options struct {
	TrustDomain     string        // of every identity; one that differs from the state's is refused
	LeafTTL         time.Duration // of services; 24 h
	NodeTTL         time.Duration // of nodes; 30 times LeafTTL: a node outlasts servers that are away, and then renews the rest
	IntermediateTTL time.Duration // 1 year
	RootTTL         time.Duration // 10 years
	Rate            int           // signatures a second in SignFor; 500
	Now             func() time.Time
	Log             hclog.Logger

	step func(what string) // tests: called before every change of the disk
}

// Authority signs identities. It is safe for concurrent use.
type Authority struct {
	opt     Options
	dir     string
	disk    disk
	lock    *os.File
	limiter *Limiter

	current atomic.Pointer[state]

	mu    sync.Mutex // of whoever replaces current
	retry time.Time  // not before: the next try to renew the intermediate
}

// state is what signs and what is trusted. It is replaced, never changed.
type state struct {
	roots        []*x509.Certificate // the first is the active one
	root         *issuer             // nil while its key is offline
	intermediate *issuer
	bundle       []byte // PEM
}

// ErrSign is wrapped when a request is refused for what it is. Its text is a
// sentence for whoever asked.
var ErrSign = errors.New("not signed")

// Open reads the authority's state in dir, or makes a new one where dir is empty
// or missing and never held one. An error that wraps ErrDamaged says which file
// is wrong and what to do; nothing was changed then. Close releases dir.
func Open(dir string, opt Options) (*Authority, error) {
	if err := mesh.CheckTrustDomain(opt.TrustDomain); err != nil {
		return nil, fmt.Errorf("opening the CA: %w", err)
	}
	opt.LeafTTL = or(opt.LeafTTL, 24*time.Hour)
	opt.NodeTTL = or(opt.NodeTTL, 30*opt.LeafTTL)
	opt.IntermediateTTL = or(opt.IntermediateTTL, 365*24*time.Hour)
	opt.RootTTL = or(opt.RootTTL, 3650*24*time.Hour)
	opt.Rate = or(opt.Rate, 500)
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if opt.Log == nil {
		opt.Log = hclog.NewNullLogger()
	}
	a := &Authority{opt: opt, dir: dir, disk: disk{step: opt.step}, limiter: NewLimiter(opt.Rate)}
	s, err := a.load()
	if err != nil {
		if a.lock != nil {
			a.lock.Close()
		}
		return nil, fmt.Errorf("opening the CA: %w", err)
	}
	a.current.Store(s)
	a.renew(s)
	return a, nil
}

func or[T comparable](v, def T) T {
	var zero T
	if v == zero {
		return def
	}
	return v
}

// Close releases the directory. Signing goes on to work.
func (a *Authority) Close() error { return a.lock.Close() }

// Sign issues a certificate for id to the holder of the key in a certificate
// request, and returns it and its issuers, DER, leaf first, without the root.
// ttl 0, or one longer than the configured life of such a certificate, is that life. An error
// that wraps ErrSign is the asker's fault. marks tell whose node it is for: mesh.Mark. They are
// its DNS names, which Envoy's rules read, and its subject, which its logs tell.
func (a *Authority) Sign(csrDER []byte, id mesh.Identity, ttl time.Duration, marks ...string) ([][]byte, error) {
	if again, err := mesh.ParseIdentity(id.String()); err != nil || again != id || id.TrustDomain != a.opt.TrustDomain {
		return nil, fmt.Errorf("%w: %s is no identity of the trust domain %s", ErrSign, mesh.Quote(id.String()), a.opt.TrustDomain)
	}
	key, err := publicKey(csrDER)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrSign, err)
	}
	h := hosts{names: marks}
	if len(marks) > 0 {
		h.common = marks[0]
	}
	return a.issue(key, id, ttl, h)
}

// issue signs with the current intermediate, which is renewed first where it is due.
func (a *Authority) issue(public any, id mesh.Identity, ttl time.Duration, hosts hosts) ([][]byte, error) {
	s := a.renew(a.current.Load())
	now := a.opt.Now()
	if now.After(s.intermediate.cert.NotAfter) || now.Before(s.intermediate.cert.NotBefore) {
		return nil, fmt.Errorf("signing %s: the intermediate is valid from %s to %s and cannot be renewed: bring the root's key back, or set this host's clock right (it says %s)",
			id, day(s.intermediate.cert.NotBefore), day(s.intermediate.cert.NotAfter), day(now))
	}
	longest := a.opt.LeafTTL
	if id.Kind == mesh.KindNodeIdentity {
		longest = a.opt.NodeTTL
	}
	if ttl <= 0 || ttl > longest {
		ttl = longest
	}
	leaf, err := s.intermediate.leaf(public, id, now, ttl, hosts)
	if err != nil {
		return nil, fmt.Errorf("signing %s: %w", id, err)
	}
	return [][]byte{leaf, s.intermediate.cert.Raw}, nil
}

func day(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// renew makes a new intermediate when half of the life of s's is over, or when
// it is not valid yet because a clock was once wrong. Where that cannot be, the
// old one goes on and the log says why.
func (a *Authority) renew(s *state) *state {
	if !a.due(s) {
		return s
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	s = a.current.Load()
	now := a.opt.Now()
	if !a.due(s) || now.Before(a.retry) && a.retry.Sub(now) <= time.Minute {
		return s
	}
	a.retry = now.Add(time.Minute)
	next, err := a.withIntermediate(s, now)
	if err == nil {
		err = a.save(next)
	}
	if err != nil {
		a.opt.Log.Error("the intermediate is not renewed; the old one goes on", "until", day(s.intermediate.cert.NotAfter), "error", err)
		return s
	}
	a.opt.Log.Info("new intermediate", "until", day(next.intermediate.cert.NotAfter))
	a.current.Store(next)
	return next
}

func (a *Authority) due(s *state) bool {
	c, now := s.intermediate.cert, a.opt.Now()
	if now.Before(c.NotBefore) {
		return true
	}
	issued := c.NotBefore.Add(keregev1.Backdate)
	half := issued.Add(c.NotAfter.Sub(issued) / 2)
	// Near the root's own end a new one would live no longer.
	return now.After(half) && c.NotAfter.Before(s.roots[0].NotAfter)
}

func (a *Authority) withIntermediate(s *state, now time.Time) (*state, error) {
	root := s.roots[0]
	if s.root == nil {
		return nil, errors.New("the root's key is offline; put root.key back for a moment and restart")
	}
	if now.After(root.NotAfter) || now.Before(root.NotBefore) {
		return nil, fmt.Errorf("the root is valid from %s to %s, and this host's clock says %s", day(root.NotBefore), day(root.NotAfter), day(now))
	}
	i, err := newIssuer("kerege intermediate "+a.opt.TrustDomain, s.root, now, a.opt.IntermediateTTL)
	if err != nil {
		return nil, err
	}
	next := *s
	next.intermediate = i
	return &next, nil
}

// TrustDomain is the one of every identity signed here.
func (a *Authority) TrustDomain() string { return a.opt.TrustDomain }

// Bundle is the PEM of the trusted roots. It must not be changed.
func (a *Authority) Bundle() []byte { return a.current.Load().bundle }

// Hash is what join tokens pin the active root by.
func (a *Authority) Hash() [32]byte { return Hash(a.current.Load().roots[0]) }

// Status is how long the certificates last.
type Status struct {
	RootExpires, IntermediateExpires time.Time
	RootOffline                      bool   // its key is not on this host
	BundleHash                       string // SHA-256 of the bundle's PEM, hex: what nodes report
	LeafTTL                          time.Duration
}

// Status says how long root, intermediate and leaves last.
func (a *Authority) Status() Status {
	s := a.current.Load()
	return Status{
		RootExpires: s.roots[0].NotAfter, IntermediateExpires: s.intermediate.cert.NotAfter,
		RootOffline: s.root == nil, BundleHash: BundleHash(s.bundle), LeafTTL: a.opt.LeafTTL,
	}
}

// BundleHash names a bundle: SHA-256 of its PEM, in hex.
func BundleHash(pem []byte) string { return keregev1.BundleHash(pem) }

func (s *state) hashes() string {
	var out string
	for _, r := range s.roots {
		h := Hash(r)
		out += hex.EncodeToString(h[:]) + "\n"
	}
	return out
}
