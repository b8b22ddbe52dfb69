package ca

import (
	"crypto/tls"
	"crypto/x509"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/kerege/kerege/mesh"
)

// handshake connects a client to a server over a pipe and gives what the
// server then knows of the client.
func handshake(t *testing.T, server, client *tls.Config) (state tls.ConnectionState, serverErr, clientErr error) {
	t.Helper()
	ours, theirs := net.Pipe()
	defer ours.Close()
	defer theirs.Close()
	done := make(chan error, 1)
	s := tls.Server(ours, server)
	go func() {
		err := s.Handshake()
		if err == nil {
			_, err = s.Write([]byte("x"))
		}
		if err != nil {
			ours.Close()
		}
		done <- err
	}()
	c := tls.Client(theirs, client)
	if clientErr = c.Handshake(); clientErr == nil {
		_, clientErr = c.Read(make([]byte, 1))
	}
	theirs.Close()
	serverErr = <-done
	return s.ConnectionState(), serverErr, clientErr
}

func roots(a *Authority) *x509.CertPool {
	p := x509.NewCertPool()
	p.AppendCertsFromPEM(a.Bundle())
	return p
}

func certificate(t *testing.T, a *Authority, id mesh.Identity) tls.Certificate {
	t.Helper()
	key := p256(t)
	chain, err := a.Sign(request(t, &x509.CertificateRequest{}, key), id, 0)
	must(t, err)
	return tls.Certificate{Certificate: chain, PrivateKey: key}
}

func TestTheNodesPort(t *testing.T) {
	c := newClock()
	a := open(t, t.TempDir()+"/ca", Options{Now: c.now})
	cert, err := a.ServerCert("s1", "kerege.example", "10.0.0.1")
	must(t, err)
	node := mesh.Identity{TrustDomain: "kerege.test", Kind: mesh.KindNodeIdentity, Name: "vm-1"}
	client := func(list ...tls.Certificate) *tls.Config {
		return &tls.Config{RootCAs: roots(a), ServerName: "kerege.example", Certificates: list, Time: c.now}
	}
	state, serverErr, clientErr := handshake(t, cert.GRPC(), client(certificate(t, a, node)))
	if serverErr != nil || clientErr != nil {
		t.Fatal(serverErr, clientErr)
	}
	id, issued, err := Peer(state.PeerCertificates)
	if err != nil || id != node || !issued.Equal(c.t) {
		t.Errorf("%v %v %v", id, issued, err)
	}
	state, serverErr, _ = handshake(t, cert.GRPC(), client())
	if _, _, err := Peer(state.PeerCertificates); serverErr != nil || err != ErrNoCertificate {
		t.Errorf("without a certificate: %v, %v", serverErr, err)
	}

	other := open(t, t.TempDir()+"/ca", Options{Now: c.now})
	old := certificate(t, a, node)
	for name, try := range map[string]struct {
		cert tls.Certificate
		when time.Duration
		says string
	}{
		"another CA, same names": {certificate(t, other, node), 0, "unknown authority"},
		"expired":                {old, 31 * 24 * time.Hour, "expired"},
		"not yet valid":          {old, -3 * time.Minute, "not yet valid"},
	} {
		now := c.t
		c.t = c.t.Add(try.when)
		conf := client(try.cert)
		conf.InsecureSkipVerify = true // what matters is what the server says
		_, serverErr, _ := handshake(t, cert.GRPC(), conf)
		c.t = now
		if serverErr == nil || !strings.Contains(serverErr.Error(), try.says) {
			t.Errorf("%s: %v", name, serverErr)
		}
	}
	conf := client()
	conf.MaxVersion = tls.VersionTLS12
	if _, _, err := handshake(t, cert.GRPC(), conf); err == nil {
		t.Error("TLS 1.2 on the nodes' port")
	}
	if _, _, err := handshake(t, cert.HTTPS(), conf); err != nil {
		t.Error(err)
	}
}

func TestAServersCertificateRenewsItself(t *testing.T) {
	c := newClock()
	a := open(t, t.TempDir()+"/ca", Options{Now: c.now, LeafTTL: time.Hour})
	cert, err := a.ServerCert("s1")
	must(t, err)
	first, _ := cert.get()
	c.t = c.t.Add(29 * time.Minute)
	if same, _ := cert.get(); same != first {
		t.Error("renewed before half of its life")
	}
	c.t = c.t.Add(2 * time.Minute)
	next, err := cert.get()
	if err != nil || next == first {
		t.Error("not renewed at half of its life", err)
	}
	if len(next.Certificate) != 3 {
		t.Fatal("the root is not in the chain: a joining node could not check its hash")
	}
	root, err := x509.ParseCertificate(next.Certificate[2])
	if err != nil || Hash(root) != a.Hash() {
		t.Error("another root")
	}
	id, err := IdentityOf(next.Leaf)
	if err != nil || id.String() != "spiffe://kerege.test/server/s1" {
		t.Error(id, err)
	}
}
