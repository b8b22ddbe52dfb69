package identity

import (
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"

	"github.com/kerege/kerege/mesh"
)

// ClientTLS is for connections to servers: TLS 1.3, with the node's certificate
// as it is at the handshake, to a server of this mesh and nobody else. The
// server's name does not matter, its identity does.
func (m *Manager) ClientTLS() *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		NextProtos:         []string{"h2"},
		InsecureSkipVerify: true, // VerifyConnection does it, by SPIFFE ID
		VerifyConnection: func(cs tls.ConnectionState) error {
			m.mu.Lock()
			pool, domain := m.pool, m.mesh.TrustDomain
			m.mu.Unlock()
			if pool == nil {
				return ErrNotJoined
			}
			return m.verifyServer(cs.PeerCertificates, pool, domain)
		},
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			s := m.Node()
			if s == nil {
				return nil, ErrNotJoined
			}
			return s.certificate(), nil
		},
	}
}

// verifyServer wants a server of a trust domain ("" any).
func (m *Manager) verifyServer(chain []*x509.Certificate, roots *x509.CertPool, domain string) error {
	if len(chain) == 0 {
		return errors.New("the server showed no certificate")
	}
	if err := trusted(chain, roots, x509.ExtKeyUsageServerAuth, m.opt.Now()); err != nil {
		return fmt.Errorf("the server is not trusted: %w", err)
	}
	id, err := identityOf(chain[0])
	if err != nil {
		return fmt.Errorf("the server is not trusted: %w", err)
	}
	if id.Kind != mesh.KindServerIdentity || domain != "" && id.TrustDomain != domain {
		return fmt.Errorf("the server is not trusted: it is %s, no server of %s", id, mesh.Quote(domain))
	}
	return nil
}

// pinnedTLS is for joining: all that is known is the hash of the root's key, so
// the server has to send that root, and its own chain must end in it. domain is
// told the trust domain that the server is of.
func (m *Manager) pinnedTLS(hash [32]byte, domain *string) *tls.Config {
	return &tls.Config{
		MinVersion:         tls.VersionTLS13,
		NextProtos:         []string{"h2"},
		InsecureSkipVerify: true, // VerifyConnection does it, by the root's hash
		VerifyConnection: func(cs tls.ConnectionState) error {
			roots, found := x509.NewCertPool(), false
			for _, c := range cs.PeerCertificates {
				if c.IsCA && sha256.Sum256(c.RawSubjectPublicKeyInfo) == hash {
					roots.AddCert(c)
					found = true
				}
			}
			if !found {
				return errors.New("the server does not show the CA whose hash is in the token: it is another mesh's, or someone is in between")
			}
			if err := m.verifyServer(cs.PeerCertificates, roots, ""); err != nil {
				return err
			}
			id, err := identityOf(cs.PeerCertificates[0])
			*domain = id.TrustDomain
			return err
		},
	}
}
