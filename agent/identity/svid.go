package identity

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	keregev1 "github.com/kerege/kerege/api/kerege/v1"
	"github.com/kerege/kerege/mesh"
)

// SVID is a certificate chain and its private key. It is never changed. It
// prints without the key.
type SVID struct {
	ID       mesh.Identity
	Chain    [][]byte  // DER, leaf first, without the root
	Issued   time.Time // by the issuer's clock
	NotAfter time.Time

	leaf *x509.Certificate
	key  *ecdsa.PrivateKey
}

// String is the identity and how long it lasts.
func (s *SVID) String() string {
	return fmt.Sprintf("%s until %s", s.ID, s.NotAfter.Format(time.RFC3339))
}

// GoString keeps %#v from showing the key.
func (s *SVID) GoString() string { return s.String() }

// ChainPEM is the chain as PEM.
func (s *SVID) ChainPEM() []byte {
	var out []byte
	for _, der := range s.Chain {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return out
}

// KeyPEM is the private key as PEM: a secret, for this node's own Envoy.
func (s *SVID) KeyPEM() []byte {
	der, err := x509.MarshalPKCS8PrivateKey(s.key)
	if err != nil {
		return nil // a P-256 key always marshals
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

// certificate is the SVID for Go's TLS.
func (s *SVID) certificate() *tls.Certificate {
	return &tls.Certificate{Certificate: s.Chain, PrivateKey: s.key, Leaf: s.leaf}
}

// newSVID reads a chain that was issued for a key.
func newSVID(chain [][]byte, key *ecdsa.PrivateKey) (*SVID, error) {
	if len(chain) == 0 {
		return nil, errors.New("there is no certificate")
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return nil, fmt.Errorf("the certificate cannot be read: %w", err)
	}
	if !key.PublicKey.Equal(leaf.PublicKey) {
		return nil, errors.New("the certificate is for another key")
	}
	id, err := identityOf(leaf)
	if err != nil {
		return nil, err
	}
	return &SVID{ID: id, Chain: chain, Issued: leaf.NotBefore.Add(keregev1.Backdate), NotAfter: leaf.NotAfter, leaf: leaf, key: key}, nil
}

func identityOf(c *x509.Certificate) (mesh.Identity, error) {
	if len(c.URIs) != 1 || c.IsCA {
		return mesh.Identity{}, fmt.Errorf("the certificate is a CA's, or has not exactly one SPIFFE ID but %d", len(c.URIs))
	}
	return mesh.ParseIdentity(c.URIs[0].String())
}

// renewal is when to get the next: at 50 % of its life, or up to a tenth of it
// earlier by a random number from 0 to 1.
func (s *SVID) renewal(random float64) time.Time {
	life := float64(s.NotAfter.Sub(s.Issued))
	return s.Issued.Add(time.Duration(life * (0.5 - 0.1*random)))
}

// trusted checks a chain against roots at a time.
func trusted(chain []*x509.Certificate, roots *x509.CertPool, use x509.ExtKeyUsage, now time.Time) error {
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	leaf := chain[0]
	if now.Before(leaf.NotBefore) || now.After(leaf.NotAfter) {
		return fmt.Errorf("the certificate is valid from %s to %s, and this host's clock says %s: one of the two clocks is wrong",
			leaf.NotBefore.Format(time.RFC3339), leaf.NotAfter.Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{use}})
	return err
}

// poolOf reads a bundle: CA certificates and nothing else.
func poolOf(bundle []byte) (*x509.CertPool, map[[32]byte]bool, error) {
	pool, hashes := x509.NewCertPool(), map[[32]byte]bool{}
	for rest := bundle; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, nil, fmt.Errorf("reading the trusted roots: %w", err)
		}
		if !c.IsCA {
			return nil, nil, errors.New("reading the trusted roots: one is no CA")
		}
		pool.AddCert(c)
		hashes[sha256.Sum256(c.RawSubjectPublicKeyInfo)] = true
	}
	if len(hashes) == 0 {
		return nil, nil, errors.New("reading the trusted roots: there are none")
	}
	return pool, hashes, nil
}
