package ca

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/kerege/kerege/mesh"
)

type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func newClock() *clock { return &clock{time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)} }

func open(t *testing.T, dir string, opt Options) *Authority {
	t.Helper()
	if opt.TrustDomain == "" {
		opt.TrustDomain = "kerege.test"
	}
	a, err := Open(dir, opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return a
}

func request(t testing.TB, tmpl *x509.CertificateRequest, key any) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, tmpl, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func p256(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := newKey()
	if err != nil {
		t.Fatal(err)
	}
	return k
}

var webID = mesh.ServiceIdentity("kerege.test", "web")

// verify checks a chain as a peer would, at a time.
func verify(t *testing.T, bundle []byte, chain [][]byte, at time.Time) *x509.Certificate {
	t.Helper()
	roots, err := ParseBundle(bundle)
	if err != nil {
		t.Fatal(err)
	}
	pool, between := x509.NewCertPool(), x509.NewCertPool()
	for _, r := range roots {
		pool.AddCert(r)
	}
	var certs []*x509.Certificate
	for _, der := range chain {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		certs = append(certs, c)
	}
	for _, c := range certs[1:] {
		between.AddCert(c)
		if certs[0].NotAfter.After(c.NotAfter) {
			t.Error("the leaf outlives its issuer")
		}
	}
	for _, use := range []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth} {
		if _, err := certs[0].Verify(x509.VerifyOptions{Roots: pool, Intermediates: between, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{use}}); err != nil {
			t.Fatal(err)
		}
	}
	return certs[0]
}

func TestOnlyTheKeyOfARequestIsUsed(t *testing.T) {
	c := newClock()
	a := open(t, t.TempDir()+"/ca", Options{Now: c.now})
	evil, _ := url.Parse("spiffe://kerege.test/svc/bank")
	key := p256(t)
	csr := request(t, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "bank"}, DNSNames: []string{"bank.example", "a\x00b"}, IPAddresses: []net.IP{net.IPv4(1, 2, 3, 4)},
		EmailAddresses: []string{"x@y"}, URIs: []*url.URL{evil, evil},
		ExtraExtensions: []pkix.Extension{
			{Id: []int{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 3, 1, 1, 0xff}}, // CA:true
			{Id: []int{2, 5, 29, 15}, Value: []byte{3, 2, 1, 6}},                          // keyCertSign
		},
	}, key)
	chain, err := a.Sign(csr, webID, 0)
	if err != nil {
		t.Fatal(err)
	}
	leaf := verify(t, a.Bundle(), chain, c.t)
	id, err := IdentityOf(leaf)
	if err != nil || id != webID {
		t.Errorf("identity %v, %v", id, err)
	}
	if len(leaf.DNSNames)+len(leaf.IPAddresses)+len(leaf.EmailAddresses) != 0 || leaf.Subject.String() != "" || leaf.IsCA || leaf.KeyUsage != x509.KeyUsageDigitalSignature {
		t.Errorf("more than a key was used: %+v", leaf.Subject)
	}
	if !key.PublicKey.Equal(leaf.PublicKey) {
		t.Error("another key")
	}
	if !leaf.NotBefore.Equal(c.t.Add(-2*time.Minute)) || !leaf.NotAfter.Equal(c.t.Add(24*time.Hour)) {
		t.Errorf("valid from %v to %v", leaf.NotBefore, leaf.NotAfter)
	}
	if again, _ := a.Sign(csr, webID, 0); bytes.Equal(again[0], chain[0]) {
		t.Error("two certificates are the same")
	}
}

func TestForgedRequestsAreRefused(t *testing.T) {
	a := open(t, t.TempDir()+"/ca", Options{})
	good := request(t, &x509.CertificateRequest{}, p256(t))
	bent := bytes.Clone(good)
	bent[len(bent)-1] ^= 1
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	weak, _ := rsa.GenerateKey(rand.Reader, 2048)
	p224, _ := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	p521, _ := ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	for name, c := range map[string]struct {
		csr  []byte
		says string
	}{
		"bad signature":  {bent, "not signed by its own key"},
		"trailing bytes": {append(bytes.Clone(good), 0), "cannot be read"},
		"empty":          {nil, "cannot be read"},
		"garbage":        {[]byte("hello"), "cannot be read"},
		"huge":           {make([]byte, maxCSR+1), "more than"},
		"ed25519":        {request(t, &x509.CertificateRequest{}, ed), "P-256"},
		"rsa":            {request(t, &x509.CertificateRequest{}, weak), "P-256"},
		"p224":           {request(t, &x509.CertificateRequest{}, p224), "P-256"},
		"p521":           {request(t, &x509.CertificateRequest{}, p521), "P-256"},
		"huge rsa":       {hugeRSA(t), "P-256"},
	} {
		if _, err := a.Sign(c.csr, webID, 0); !errors.Is(err, ErrSign) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v, want %q", name, err, c.says)
		}
	}
	for _, id := range []mesh.Identity{
		{}, mesh.ServiceIdentity("kerege.tеst", "web"), mesh.ServiceIdentity("other.test", "web"), mesh.ServiceIdentity("KEREGE.test", "web"),
		mesh.ServiceIdentity("kerege.test", "web/"), mesh.ServiceIdentity("kerege.test", ".."), mesh.ServiceIdentity("kerege.test", "a\x00b"),
		{TrustDomain: "kerege.test", Kind: "root", Name: "x"},
	} {
		if _, err := a.Sign(good, id, 0); !errors.Is(err, ErrSign) {
			t.Errorf("%v: %v", id, err)
		}
	}
}

// hugeRSA is a request with an RSA key of 16,384 bits and a false signature.
func hugeRSA(t *testing.T) []byte {
	small, _ := rsa.GenerateKey(rand.Reader, 2048)
	der := request(t, &x509.CertificateRequest{}, small)
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		t.Fatal(err)
	}
	big := rsa.PublicKey{N: small.N, E: 65537}
	big.N = big.N.Lsh(big.N, 16384-2048)
	big.N.SetBit(big.N, 0, 1)
	spki, err := x509.MarshalPKIXPublicKey(&big)
	if err != nil {
		t.Fatal(err)
	}
	// The lengths of the outer sequences change with the key.
	info := append(append([]byte{2, 1, 0}, csr.RawSubject...), spki...)
	info = sequence(append(info, 0xa0, 0))
	rest := csr.Raw[4+len(csr.RawTBSCertificateRequest):]
	return sequence(append(info, rest...))
}

func sequence(body []byte) []byte {
	return append([]byte{0x30, 0x82, byte(len(body) >> 8), byte(len(body))}, body...)
}

func TestNoLeafOutlivesItsIssuer(t *testing.T) {
	c := newClock()
	dir := t.TempDir() + "/ca"
	a := open(t, dir, Options{Now: c.now, LeafTTL: 10 * time.Hour, IntermediateTTL: 24 * time.Hour, RootTTL: 72 * time.Hour})
	csr := request(t, &x509.CertificateRequest{}, p256(t))
	seen := map[string]bool{}
	for c.t.Before(newClock().t.Add(71 * time.Hour)) {
		chain, err := a.Sign(csr, webID, 100*time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		leaf := verify(t, a.Bundle(), chain, c.t)
		if life := leaf.NotAfter.Sub(c.t); life > 10*time.Hour || life < 10*time.Hour && leaf.NotAfter.Before(a.Status().RootExpires) {
			t.Fatalf("a leaf lives %v", life)
		}
		seen[string(chain[1])] = true
		c.t = c.t.Add(time.Hour)
	}
	if len(seen) < 4 || len(seen) > 7 {
		t.Errorf("%d intermediates in three days of a day each", len(seen))
	}
	hash := a.Hash()
	a.Close()
	again := open(t, dir, Options{Now: c.now, LeafTTL: 10 * time.Hour, IntermediateTTL: 24 * time.Hour})
	if again.Hash() != hash {
		t.Error("another root after a restart")
	}
	c.t = c.t.Add(time.Hour * 24)
	if _, err := again.Sign(csr, webID, 0); err == nil || !strings.Contains(err.Error(), "clock") {
		t.Errorf("an expired root signs: %v", err)
	}
}

func TestAClockThatWasWrongHeals(t *testing.T) {
	c := newClock()
	a := open(t, t.TempDir()+"/ca", Options{Now: c.now})
	csr := request(t, &x509.CertificateRequest{}, p256(t))
	sign := func() []byte {
		chain, err := a.Sign(csr, webID, 0)
		if err != nil {
			t.Fatal(err)
		}
		verify(t, a.Bundle(), chain, c.t)
		return chain[1]
	}
	first := sign()
	c.t = c.t.Add(300 * 24 * time.Hour)
	wrong := sign()
	if bytes.Equal(first, wrong) {
		t.Fatal("no new intermediate after 300 days")
	}
	c.t = newClock().t
	right := sign()
	for range 100 {
		if !bytes.Equal(sign(), right) {
			t.Fatal("a new intermediate for every signature")
		}
	}
}
