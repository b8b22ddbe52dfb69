package ca

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"time"

	keregev1 "github.com/kerege/kerege/api/kerege/v1"
	"github.com/kerege/kerege/mesh"
)

// issuer is a certificate that signs, and its key.
type issuer struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newKey() (*ecdsa.PrivateKey, error) { return ecdsa.GenerateKey(elliptic.P256(), rand.Reader) }

func serial() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	return n.Add(n, big.NewInt(1)), nil
}

// newIssuer makes a CA certificate under parent, or a root where that is nil.
func newIssuer(name string, parent *issuer, now time.Time, ttl time.Duration) (*issuer, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	n, err := serial()
	if err != nil {
		return nil, err
	}
	c := &x509.Certificate{
		SerialNumber:          n,
		Subject:               pkix.Name{Organization: []string{"kerege"}, CommonName: name},
		NotBefore:             now.Add(-keregev1.Backdate),
		NotAfter:              now.Add(ttl),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLen:            1,
	}
	by := &issuer{cert: c, key: key}
	if parent != nil {
		by, c.MaxPathLen, c.MaxPathLenZero = parent, 0, true
		c.NotAfter = earlier(c.NotAfter, parent.cert.NotAfter)
	}
	der, err := x509.CreateCertificate(rand.Reader, c, by.cert, key.Public(), by.key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &issuer{cert: cert, key: key}, err
}

// leaf signs a public key under id. hosts are names and addresses besides it,
// for the server's own certificate, and the mark of a node.
func (i *issuer) leaf(public any, id mesh.Identity, now time.Time, ttl time.Duration, hosts hosts) ([]byte, error) {
	n, err := serial()
	if err != nil {
		return nil, err
	}
	uri, err := url.Parse(id.String())
	if err != nil {
		return nil, err
	}
	c := &x509.Certificate{
		SerialNumber:          n,
		Subject:               pkix.Name{CommonName: hosts.common},
		NotBefore:             now.Add(-keregev1.Backdate),
		NotAfter:              earlier(now.Add(ttl), i.cert.NotAfter),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
		URIs:                  []*url.URL{uri},
		DNSNames:              hosts.names,
		IPAddresses:           hosts.ips,
	}
	return x509.CreateCertificate(rand.Reader, c, i.cert, public, i.key)
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// Hash is what a join token pins a root by: SHA-256 of its public key.
func Hash(root *x509.Certificate) [32]byte { return sha256.Sum256(root.RawSubjectPublicKeyInfo) }

const maxBundle = 1 << 20

// ParseBundle reads the PEM of trusted roots: at least one certificate, all of
// them CAs, and nothing else.
func ParseBundle(text []byte) ([]*x509.Certificate, error) {
	if len(text) > maxBundle {
		return nil, fmt.Errorf("reading a bundle: it has %d bytes, more than %d", len(text), maxBundle)
	}
	var list []*x509.Certificate
	for {
		var block *pem.Block
		if block, text = pem.Decode(text); block == nil {
			break
		}
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("reading a bundle: a block of type %s is no certificate", mesh.Quote(block.Type))
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("reading a bundle: %w", err)
		}
		if !c.IsCA || !c.BasicConstraintsValid {
			return nil, errors.New("reading a bundle: a certificate in it is no CA's")
		}
		list = append(list, c)
	}
	if len(list) == 0 {
		return nil, errors.New("reading a bundle: there is no certificate in it")
	}
	return list, nil
}

func bundleOf(roots []*x509.Certificate) []byte {
	var out []byte
	for _, r := range roots {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Raw})...)
	}
	return out
}

// IdentityOf reads the one SPIFFE ID of a leaf. A certificate with another URI,
// or any second one, has none.
func IdentityOf(c *x509.Certificate) (mesh.Identity, error) {
	if c.IsCA {
		return mesh.Identity{}, errors.New("the certificate is a CA's, not a workload's")
	}
	if len(c.URIs) != 1 {
		return mesh.Identity{}, fmt.Errorf("the certificate has %d URIs; exactly one SPIFFE ID is expected", len(c.URIs))
	}
	return mesh.ParseIdentity(c.URIs[0].String())
}
