package identity

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"

	"github.com/hashicorp/go-hclog"

	"github.com/kerege/kerege/agent/seal"
	keregev1 "github.com/kerege/kerege/api/kerege/v1"
	"github.com/kerege/kerege/ca"
	"github.com/kerege/kerege/mesh"
)

// authority signs what a node asks for, as a server would, and can be away.
type authority struct {
	*ca.Authority
	mu    sync.Mutex
	away  error
	asked map[string][]time.Time
	keys  map[string]bool              // every request's
	bend  func(*keregev1.SignResponse) // what is done to an answer
}

func newAuthority(t *testing.T, leaf time.Duration) *authority {
	t.Helper()
	a, err := ca.Open(filepath.Join(t.TempDir(), "ca"), ca.Options{TrustDomain: "kerege.test", LeafTTL: leaf, NodeTTL: leaf})
	must(t, err)
	t.Cleanup(func() { a.Close() })
	return &authority{Authority: a, asked: map[string][]time.Time{}, keys: map[string]bool{}}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func nodeID(name string) mesh.Identity {
	return mesh.Identity{TrustDomain: "kerege.test", Kind: mesh.KindNodeIdentity, Name: name}
}

func (a *authority) Sign(ctx context.Context, r *keregev1.SignRequest, _ ...grpc.CallOption) (*keregev1.SignResponse, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked[r.GetService()] = append(a.asked[r.GetService()], time.Now())
	if a.away != nil {
		return nil, a.away
	}
	if a.keys[string(r.GetCsr())] {
		return nil, errors.New("the same request twice")
	}
	a.keys[string(r.GetCsr())] = true
	id := nodeID("vm-1")
	if r.GetService() != "" {
		id = mesh.ServiceIdentity("kerege.test", mesh.ServiceName(r.GetService()))
	}
	chain, err := a.Authority.Sign(r.GetCsr(), id, 0)
	if err != nil {
		return nil, err
	}
	answer := &keregev1.SignResponse{Chain: chain, Bundle: a.Bundle()}
	if a.bend != nil {
		a.bend(answer)
	}
	return answer, nil
}

func (a *authority) set(away error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.away = away
}

func (a *authority) count(service string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.asked[service])
}

type place struct {
	dir string
	key seal.Key
	log bytes.Buffer
}

func newPlace(t *testing.T) *place { return &place{dir: t.TempDir(), key: seal.NewKey()} }

func (p *place) open(t *testing.T, now func() time.Time) *Manager {
	t.Helper()
	m, err := New(Options{Dir: p.dir, Key: p.key, Now: now, Log: hclog.New(&hclog.LoggerOptions{Output: &p.log})})
	must(t, err)
	return m
}

// joined puts a node into the mesh as Join does, without a wire.
func (p *place) joined(t *testing.T, a *authority, now func() time.Time) *Manager {
	t.Helper()
	m := p.open(t, now)
	key, csr, err := newRequest()
	must(t, err)
	chain, err := a.Authority.Sign(csr, nodeID("vm-1"), 0)
	must(t, err)
	must(t, m.enter(&keregev1.JoinResponse{Chain: chain, Bundle: a.Bundle(), TrustDomain: "kerege.test", Node: "vm-1"}, key, "vm-1", "s1:7401"))
	return m
}

// run starts Run and stops it at the end of the bubble's test.
func run(t *testing.T, m *Manager, s Signer) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { m.Run(ctx, s) })
	return func() { cancel(); wg.Wait() }
}

var web = Workload{Service: "web"}

func TestCertificatesOfAMinuteAreRenewedBeforeHalf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, p := newAuthority(t, time.Minute), newPlace(t)
		m := p.joined(t, a, nil)
		m.Want(web)
		defer run(t, m, a)()
		must(t, m.Wait(t.Context(), web))
		begin := time.Now()
		seen := map[string]bool{}
		for time.Since(begin) < 20*time.Minute {
			s := m.Get(web)
			_, _, _, changed := m.Source(web).Secrets()
			<-changed
			next := m.Get(web)
			if next == s {
				continue // the bundle, or nothing
			}
			age := time.Since(s.Issued)
			if age < 24*time.Second || age > 31*time.Second {
				t.Fatalf("renewed at the age of %v", age)
			}
			if seen[string(next.KeyPEM())] {
				t.Fatal("a key is used twice")
			}
			seen[string(next.KeyPEM())] = true
		}
		if n := len(seen); n < 40 || n > 52 {
			t.Errorf("%d renewals in 20 minutes", n)
		}
		if age := time.Since(m.Node().Issued); age > 31*time.Second {
			t.Errorf("the node's own is %v old", age)
		}
		for _, s := range m.Status() {
			if s.State != "fresh" || s.Error != "" {
				t.Errorf("%+v", s)
			}
		}
	})
}

func TestJitterSpreadsRenewals(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, p := newAuthority(t, 24*time.Hour), newPlace(t)
		m := p.joined(t, a, nil)
		for i := range 50 {
			m.Want(Workload{Service: mesh.ServiceName(fmt.Sprintf("s%d", i))})
		}
		stop := run(t, m, a)
		time.Sleep(time.Minute)
		stop()
		var at []time.Duration
		for _, s := range m.Status() {
			at = append(at, s.Renew.Sub(s.NotAfter.Add(-24*time.Hour)))
		}
		if first, last := slices.Min(at), slices.Max(at); first < 9*time.Hour+30*time.Minute || last > 12*time.Hour || last-first < time.Hour {
			t.Errorf("renewals from %v to %v of 24 h", first, last)
		}
	})
}

func TestServersAwayUntilExpiryAndBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, p := newAuthority(t, time.Hour), newPlace(t)
		m := p.joined(t, a, nil)
		m.Want(web)
		stop := run(t, m, a)
		must(t, m.Wait(t.Context(), web))
		a.set(errors.New("nobody answers"))
		time.Sleep(50 * time.Minute)
		state := func() Status { return m.Status()[1] }
		if s := state(); s.State != "retrying" || !strings.Contains(s.Error, "nobody answers") || m.Get(web) == nil {
			t.Errorf("%+v", s)
		}
		if n := a.count("web"); n < 10 || n > 80 {
			t.Errorf("%d tries in 25 minutes", n)
		}
		if !strings.Contains(p.log.String(), "ends soon") {
			t.Error("nobody is told that a certificate ends")
		}
		stop()

		again := p.open(t, nil) // a restart with every server down
		if s := again.Get(web); s == nil || !bytes.Equal(s.KeyPEM(), m.Get(web).KeyPEM()) {
			t.Error("it does not start from disk")
		}
		if v, ok := again.Mesh(); !ok || v.Node != "vm-1" || v.Servers[0] != "s1:7401" {
			t.Errorf("%v %v", v, ok)
		}
		defer run(t, again, a)()
		time.Sleep(20 * time.Minute)
		if s := again.Status()[1]; s.State != "expired" {
			t.Errorf("%+v", s)
		}
		a.set(nil)
		time.Sleep(2 * time.Minute)
		if s := again.Status()[1]; s.State != "fresh" || s.Error != "" {
			t.Errorf("it does not heal: %+v", s)
		}
	})
}

func TestClocksThatJump(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, p := newAuthority(t, 24*time.Hour), newPlace(t)
		var mu sync.Mutex
		var off time.Duration
		now := func() time.Time { mu.Lock(); defer mu.Unlock(); return time.Now().Add(off) }
		jump := func(d time.Duration) { mu.Lock(); defer mu.Unlock(); off = d }
		m := p.joined(t, a, now)
		m.Want(web)
		defer run(t, m, a)()
		must(t, m.Wait(t.Context(), web))
		for _, c := range []struct {
			to    time.Duration
			most  int
			state string
		}{
			{time.Hour, 0, "fresh"},
			{-time.Hour, 0, "early"},
			{10 * 365 * 24 * time.Hour, 24, "expired"}, // the server's answers look expired: refused, and asked for slowly
			{0, 2, "fresh"},
			{-25 * time.Minute, 0, "early"},
			{0, 0, "fresh"},
		} {
			before := a.count("web")
			jump(c.to)
			time.Sleep(10 * time.Minute)
			if n := a.count("web") - before; n > c.most {
				t.Errorf("clock at %v: %d requests in ten minutes", c.to, n)
			}
			if s := m.Status()[1]; s.State != c.state {
				t.Errorf("clock at %v: %+v", c.to, s)
			}
		}
		before := m.Get(web)
		jump(13 * time.Hour) // asleep: the timers stood still
		time.Sleep(31 * time.Second)
		if a.count("web") == 0 || m.Get(web) == before && m.Status()[1].Error == "" {
			t.Error("a machine that slept past the renewal does not notice within 30 s")
		}
	})
}

func TestAnswersThatAreNotBelieved(t *testing.T) {
	other := newAuthority(t, time.Hour)
	for name, bend := range map[string]func(*keregev1.SignResponse){
		"nothing": func(r *keregev1.SignResponse) { r.Chain = nil },
		"garbage": func(r *keregev1.SignResponse) { r.Chain[0] = []byte("x") },
		"another key": func(r *keregev1.SignResponse) {
			_, csr, _ := newRequest()
			r.Chain, _ = other.Authority.Sign(csr, mesh.ServiceIdentity("kerege.test", "web"), 0)
		},
		"no bundle of this CA": func(r *keregev1.SignResponse) { r.Bundle = other.Bundle() },
		"an empty bundle":      func(r *keregev1.SignResponse) { r.Bundle = []byte("-----BEGIN X-----\n") },
		"no intermediate":      func(r *keregev1.SignResponse) { r.Chain = r.Chain[:1] },
	} {
		t.Run(name, func(t *testing.T) {
			a, p := newAuthority(t, time.Hour), newPlace(t)
			a.bend = bend
			m := p.joined(t, a, nil)
			m.Want(web)
			bundle := string(a.Bundle())
			m.renew(t.Context(), a, web)
			if s := m.Status()[1]; s.State != "waiting" || s.Error == "" {
				t.Errorf("%+v", s)
			}
			if v, _ := m.Mesh(); string(v.Bundle) != bundle {
				t.Error("the bundle of a refused answer is kept")
			}
		})
	}
	a, p := newAuthority(t, time.Hour), newPlace(t)
	m := p.joined(t, a, nil)
	key, csr, _ := newRequest()
	chain, err := a.Authority.Sign(csr, mesh.ServiceIdentity("kerege.test", "bank"), 0)
	must(t, err)
	if _, err := m.accept(chain, key, a.Bundle(), mesh.ServiceIdentity("kerege.test", "web")); err == nil || !strings.Contains(err.Error(), "it is for") {
		t.Errorf("another identity: %v", err)
	}
}

func TestFilesThatAreNotBelieved(t *testing.T) {
	a, p := newAuthority(t, time.Hour), newPlace(t)
	m := p.joined(t, a, nil)
	m.Want(web, Workload{Service: "job", Workload: "a.1"})
	for w := range m.held {
		m.renew(t.Context(), a, w)
	}
	secret := m.Get(web).key.D.Bytes()
	for _, name := range []string{nodeFile, web.file(), "svc-job.a.1.sealed"} {
		text, err := os.ReadFile(filepath.Join(p.dir, name))
		must(t, err)
		if bytes.Contains(text, secret) || bytes.Contains(text, []byte("spiffe")) {
			t.Error("a file is not sealed")
		}
		if info, _ := os.Stat(filepath.Join(p.dir, name)); info.Mode().Perm() != 0o600 {
			t.Errorf("mode %v", info.Mode())
		}
	}
	bend := func(name string) {
		path := filepath.Join(p.dir, name)
		text, err := os.ReadFile(path)
		must(t, err)
		text[len(text)-3] ^= 1
		must(t, os.WriteFile(path, text, 0o600))
	}
	bend(web.file())
	again := p.open(t, nil)
	if again.Get(web) != nil || again.Get(Workload{Service: "job", Workload: "a.1"}) == nil || again.Node() == nil {
		t.Error("one damaged file is not one lost identity")
	}
	must(t, os.Rename(filepath.Join(p.dir, "svc-job.a.1.sealed"), filepath.Join(p.dir, web.file())))
	if p.open(t, nil).Get(web) != nil {
		t.Error("a file under another's name is believed")
	}
	bend(nodeFile)
	last := p.open(t, nil)
	if _, ok := last.Mesh(); ok || !strings.Contains(last.Trouble(), "join again") {
		t.Errorf("%q", last.Trouble())
	}
	for _, s := range []string{fmt.Sprintf("%v %+v %#v", m.Get(web), m.Get(web), m.Get(web)), p.log.String()} {
		if strings.Contains(s, "PRIVATE") || strings.Contains(s, m.Get(web).key.D.String()) {
			t.Error("a key is shown")
		}
	}
}

func TestADiskThatCannotBeWrittenTo(t *testing.T) {
	a, p := newAuthority(t, time.Hour), newPlace(t)
	m := p.joined(t, a, nil)
	must(t, os.RemoveAll(p.dir))
	m.Want(web)
	m.renew(t.Context(), a, web)
	if s := m.Status()[1]; s.State != "fresh" {
		t.Errorf("%+v", s)
	}
	if !strings.Contains(p.log.String(), "goes on from memory") {
		t.Error("nobody is told")
	}
}

func TestForgettingAndLeaving(t *testing.T) {
	a, p := newAuthority(t, time.Hour), newPlace(t)
	m := p.joined(t, a, nil)
	m.Want(web)
	m.renew(t.Context(), a, web)
	_, _, _, changed := m.Source(web).Secrets()
	must(t, m.Forget(web))
	<-changed
	if p.open(t, nil).Get(web) != nil {
		t.Error("it is still on disk")
	}
	must(t, m.Leave())
	if list, _ := os.ReadDir(p.dir); len(list) != 0 || m.Node() != nil {
		t.Errorf("left over: %v", list)
	}
}

func TestANewBundleReachesEveryProxy(t *testing.T) {
	a, b, p := newAuthority(t, time.Hour), newAuthority(t, time.Hour), newPlace(t)
	m := p.joined(t, a, nil)
	m.Want(web)
	m.renew(t.Context(), a, web)
	chain, _, _, changed := m.Source(web).Secrets()
	both := append(slices.Clone(a.Bundle()), b.Bundle()...)
	must(t, m.Update(both, []string{"s2:7401"}))
	<-changed
	next, _, bundle, changed := m.Source(web).Secrets()
	if !bytes.Equal(bundle, both) || !bytes.Equal(chain, next) {
		t.Error("not the new bundle, or a new certificate with it")
	}
	must(t, m.Update(both, []string{"s3:7401"}))
	select {
	case <-changed:
		t.Error("proxies are woken for a server's address")
	default:
	}
	if err := m.Update([]byte("nonsense"), nil); err == nil {
		t.Error("nonsense is a bundle")
	}
	if v, _ := p.open(t, nil).Mesh(); !bytes.Equal(v.Bundle, both) || v.Servers[0] != "s3:7401" {
		t.Error("it is not on disk")
	}
}
