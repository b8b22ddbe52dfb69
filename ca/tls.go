package ca

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	keregev1 "github.com/kerege/kerege/api/kerege/v1"
	"github.com/kerege/kerege/mesh"
)

type hosts struct {
	names  []string
	ips    []net.IP
	common string // the subject's common name; "": no subject
}

func splitHosts(list []string) hosts {
	var h hosts
	for _, s := range list {
		if ip := net.ParseIP(s); ip != nil {
			h.ips = append(h.ips, ip)
		} else if s != "" {
			h.names = append(h.names, s)
		}
	}
	return h
}

// ServerCert is a server's own certificate. It lives in memory and renews itself
// when half of its life is over, in the handshake that finds it so.
type ServerCert struct {
	a     *Authority
	id    mesh.Identity
	hosts hosts

	mu    sync.Mutex
	cert  *tls.Certificate
	renew time.Time
}

// ServerCert issues the certificate of the server called name. hosts are the
// names and addresses that operators' clients know it by; agents only look at
// its SPIFFE ID.
func (a *Authority) ServerCert(name string, hosts ...string) (*ServerCert, error) {
	c := &ServerCert{a: a, hosts: splitHosts(hosts), id: mesh.Identity{TrustDomain: a.opt.TrustDomain, Kind: mesh.KindServerIdentity, Name: name}}
	if _, err := mesh.ParseIdentity(c.id.String()); err != nil {
		return nil, fmt.Errorf("issuing the server's certificate: %w", err)
	}
	_, err := c.get()
	return c, err
}

// get is the certificate, renewed first where that is due. The chain ends with
// the root: a node that joins knows only the root's hash.
func (c *ServerCert) get() (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.a.opt.Now()
	if c.cert != nil && now.Before(c.renew) && !now.Before(c.cert.Leaf.NotBefore) {
		return c.cert, nil
	}
	next, err := c.issue()
	if err != nil {
		if c.cert != nil && now.Before(c.cert.Leaf.NotAfter) {
			c.renew = now.Add(10 * time.Second)
			c.a.opt.Log.Error("the server's certificate is not renewed", "until", day(c.cert.Leaf.NotAfter), "error", err)
			return c.cert, nil
		}
		return nil, fmt.Errorf("issuing the server's certificate: %w", err)
	}
	issued := next.Leaf.NotBefore.Add(keregev1.Backdate)
	c.cert, c.renew = next, issued.Add(next.Leaf.NotAfter.Sub(issued)/2)
	return next, nil
}

func (c *ServerCert) issue() (*tls.Certificate, error) {
	key, err := newKey()
	if err != nil {
		return nil, err
	}
	chain, err := c.a.issue(key.Public(), c.id, 0, c.hosts)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: append(chain, c.a.current.Load().roots[0].Raw), PrivateKey: key, Leaf: leaf}, nil
}

// GRPC is for the port of nodes: TLS 1.3; a client certificate is asked for and
// must be the mesh's if one is shown (Join has none). Who it is: Peer.
func (c *ServerCert) GRPC() *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             []string{"h2"},
		GetCertificate:         func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.get() },
		ClientAuth:             tls.RequestClientCert,
		SessionTicketsDisabled: true, // each connection proves who it is
		Time:                   c.a.opt.Now,
		VerifyConnection:       c.a.verifyClient,
	}
}

// HTTPS is for the API: TLS 1.2 and up, no client certificate.
func (c *ServerCert) HTTPS() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.get() },
		Time:           c.a.opt.Now,
	}
}

// verifyClient checks a client's chain against the roots as they are now.
func (a *Authority) verifyClient(cs tls.ConnectionState) error {
	if len(cs.PeerCertificates) == 0 {
		return nil
	}
	pool := x509.NewCertPool()
	for _, r := range a.current.Load().roots {
		pool.AddCert(r)
	}
	between := x509.NewCertPool()
	for _, c := range cs.PeerCertificates[1:] {
		between.AddCert(c)
	}
	leaf := cs.PeerCertificates[0]
	if _, err := leaf.Verify(x509.VerifyOptions{
		Roots: pool, Intermediates: between, CurrentTime: a.opt.Now(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}); err != nil {
		return err
	}
	id, err := IdentityOf(leaf)
	if err != nil {
		return err
	}
	if id.TrustDomain != a.opt.TrustDomain {
		return fmt.Errorf("the trust domain %s is not this mesh's", mesh.Quote(id.TrustDomain))
	}
	return nil
}

// ErrNoCertificate is a connection whose client showed none.
var ErrNoCertificate = errors.New("the client showed no certificate")

// Peer is who is at the other end of a connection accepted with GRPC, and when
// its certificate was issued. certificates are the connection's
// PeerCertificates, which its handshake has verified.
func Peer(certificates []*x509.Certificate) (id mesh.Identity, issued time.Time, err error) {
	if len(certificates) == 0 {
		return mesh.Identity{}, time.Time{}, ErrNoCertificate
	}
	leaf := certificates[0]
	id, err = IdentityOf(leaf)
	if err == nil && !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageClientAuth) {
		err = errors.New("the certificate is not for clients")
	}
	return id, leaf.NotBefore.Add(keregev1.Backdate), err
}
