package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	keregev1 "github.com/kerege/kerege/api/kerege/v1"
	"github.com/kerege/kerege/mesh"
)

// Signer issues certificates: keregev1.SignClient.
type Signer interface {
	Sign(ctx context.Context, in *keregev1.SignRequest, opts ...grpc.CallOption) (*keregev1.SignResponse, error)
}

const (
	reread     = 30 * time.Second // at most between two looks at the wall clock
	signWithin = 15 * time.Second
	atOnce     = 4 // renewals in flight
	firstWait  = time.Second
	longWait   = time.Minute
)

// Run keeps what is held fresh and gets what is wanted, until ctx ends. A server
// that does not answer or refuses is asked again for ever, ever more slowly.
func (m *Manager) Run(ctx context.Context, signer Signer) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-m.poke:
		}
		due, next := m.dueNow()
		if len(due) > 0 {
			var g errgroup.Group
			g.SetLimit(atOnce)
			for _, w := range due {
				g.Go(func() error {
					m.renew(ctx, signer, w)
					return nil
				})
			}
			_ = g.Wait()
			_, next = m.dueNow()
		}
		timer.Reset(next)
	}
}

// dueNow lists what to ask for now, and how long until something else is due.
// The node's own comes first: the rest is asked for with it.
func (m *Manager) dueNow() (list []Workload, next time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	next = reread
	if m.pool == nil {
		return nil, next
	}
	now := m.opt.Now()
	for w, e := range m.held {
		m.warn(w, e, now)
		if left := e.due(now).Sub(now); left <= 0 {
			list = append(list, w)
		} else {
			next = min(next, left)
		}
	}
	slices.SortFunc(list, func(a, b Workload) int { return compare(a, b) })
	if len(list) > 0 {
		next = min(next, firstWait)
	}
	return list, next
}

func compare(a, b Workload) int {
	switch {
	case a.String() == b.String():
		return 0
	case a == (Workload{}) || b != (Workload{}) && a.String() < b.String():
		return -1
	}
	return 1
}

// due is when to ask next. A wall clock that went back past the last try does
// not make the wait longer.
func (e *entry) due(now time.Time) time.Time {
	switch {
	case e.fails > 0 && !now.Before(e.tried):
		return e.tried.Add(e.wait)
	case e.fails > 0:
		return now
	case e.svid == nil:
		return e.tried
	}
	return e.renew
}

// warn says once when a quarter of the life is left and nothing newer is there.
func (m *Manager) warn(w Workload, e *entry, now time.Time) {
	if e.svid == nil || e.warned {
		return
	}
	if left, life := e.svid.NotAfter.Sub(now), e.svid.NotAfter.Sub(e.svid.Issued); left < life/4 {
		e.warned = true
		m.opt.Log.Error("a certificate ends soon and is not renewed; new connections fail when it has", "identity", e.svid.ID.String(), "workload", w.String(), "left", left.Round(time.Second), "error", e.err)
	}
}

// renew asks for one identity with a new key and takes the answer in.
func (m *Manager) renew(ctx context.Context, signer Signer, w Workload) {
	ctx, cancel := context.WithTimeout(ctx, signWithin)
	defer cancel()
	next, answer, err := m.ask(ctx, signer, w)
	if err == nil && len(answer.GetBundle()) > 0 {
		err = m.Update(answer.GetBundle(), nil)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.held[w]
	if e == nil || ctx.Err() == context.Canceled {
		return // forgotten meanwhile, or the agent stops
	}
	e.tried = m.opt.Now()
	if err != nil {
		e.fails++
		e.wait = m.backoff(e)
		if text := status.Convert(err).Message(); text != e.err {
			e.err = text
			m.opt.Log.Warn("no certificate yet; it is asked for again", "workload", w.String(), "in", e.wait.Round(time.Millisecond), "error", text)
		}
		return
	}
	e.svid, e.renew = next, next.renewal(m.opt.Rand())
	e.fails, e.err, e.warned = 0, "", false
	m.opt.Log.Info("certificate", "identity", next.ID.String(), "workload", w.String(), "until", next.NotAfter)
	if w == (Workload{}) {
		m.keepNode()
	} else if err := m.write(w.file(), saved{Service: string(w.Service), Workload: w.Workload}, next); err != nil {
		m.opt.Log.Error("a certificate is not on disk; it goes on from memory and is lost with a restart", "workload", w.String(), "error", err)
	}
	e.tell()
}

// backoff doubles up to a minute, or up to an eighth of what is left of a short
// life, and spreads over the last half of that.
func (m *Manager) backoff(e *entry) time.Duration {
	wait := min(firstWait<<min(e.fails-1, 6), longWait)
	if e.svid != nil {
		if left := e.svid.NotAfter.Sub(e.tried); left > 0 {
			wait = min(wait, max(left/8, firstWait))
		}
	}
	return wait/2 + time.Duration(m.opt.Rand()*float64(wait/2))
}

// ask gets a certificate for a new key, and believes it only when it verifies.
func (m *Manager) ask(ctx context.Context, signer Signer, w Workload) (*SVID, *keregev1.SignResponse, error) {
	key, csr, err := newRequest()
	if err != nil {
		return nil, nil, err
	}
	req := &keregev1.SignRequest{Service: string(w.Service), Workload: w.Workload, Csr: csr}
	if m.opt.Evidence != nil && w.Workload != "" {
		req.Evidence = m.opt.Evidence(w)
	}
	answer, err := signer.Sign(ctx, req)
	if err != nil {
		return nil, nil, err
	}
	known, _ := m.Mesh()
	want := mesh.ServiceIdentity(known.TrustDomain, w.Service)
	if w == (Workload{}) {
		want = mesh.Identity{TrustDomain: known.TrustDomain, Kind: mesh.KindNodeIdentity, Name: known.Node}
	}
	bundle := answer.GetBundle()
	if len(bundle) == 0 {
		bundle = known.Bundle
	}
	s, err := m.accept(answer.GetChain(), key, bundle, want)
	return s, answer, err
}

func newRequest() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("making a key: %w", err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, nil, fmt.Errorf("making a certificate request: %w", err)
	}
	return key, csr, nil
}

// accept checks a chain that a server sent.
func (m *Manager) accept(der [][]byte, key *ecdsa.PrivateKey, bundle []byte, want mesh.Identity) (*SVID, error) {
	s, err := newSVID(der, key)
	if err != nil {
		return nil, fmt.Errorf("the server's answer is refused: %w", err)
	}
	if s.ID != want {
		return nil, fmt.Errorf("the server's answer is refused: it is for %s, not %s", s.ID, want)
	}
	pool, _, err := poolOf(bundle)
	if err != nil {
		return nil, err
	}
	var chain []*x509.Certificate
	for _, d := range der {
		c, err := x509.ParseCertificate(d)
		if err != nil {
			return nil, fmt.Errorf("the server's answer is refused: %w", err)
		}
		chain = append(chain, c)
	}
	for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth} {
		if err := trusted(chain, pool, use, m.opt.Now()); err != nil {
			return nil, fmt.Errorf("the server's answer is refused: %w", err)
		}
	}
	return s, nil
}
