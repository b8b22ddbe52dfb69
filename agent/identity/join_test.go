package identity

import (
	"context"
	"crypto/x509"
	"errors"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	keregev1 "github.com/kerege/kerege/api/kerege/v1"
	"github.com/kerege/kerege/ca"
	"github.com/kerege/kerege/mesh"
)

// joinDesk is a server that lets nodes in, over TLS and an in-memory wire.
type joinDesk struct {
	keregev1.UnimplementedJoinServer
	a      *authority
	tokens *ca.Tokens
	wire   *bufconn.Listener
	peer   mesh.Identity
	err    error
}

func (d *joinDesk) Join(_ context.Context, r *keregev1.JoinRequest) (*keregev1.JoinResponse, error) {
	if d.err != nil {
		return nil, d.err
	}
	if err := d.tokens.Spend(r.GetToken(), r.GetNode(), "10.0.0.1"); err != nil {
		return nil, status.Error(codes.PermissionDenied, err.Error())
	}
	chain, err := d.a.Authority.Sign(r.GetCsr(), nodeID(r.GetNode()), 0)
	return &keregev1.JoinResponse{Chain: chain, Bundle: d.a.Bundle(), TrustDomain: "kerege.test", Node: r.GetNode(), Servers: []string{"s1:7401"}}, err
}

// Sign notes who asks.
func (d *joinDesk) Sign(ctx context.Context, r *keregev1.SignRequest) (*keregev1.SignResponse, error) {
	p, _ := peer.FromContext(ctx)
	info, _ := p.AuthInfo.(credentials.TLSInfo)
	var err error
	if d.peer, _, err = ca.Peer(info.State.PeerCertificates); err != nil {
		return nil, err
	}
	return d.a.Sign(ctx, r)
}

func newJoinDesk(t *testing.T) *joinDesk {
	t.Helper()
	d := &joinDesk{a: newAuthority(t, time.Hour), wire: bufconn.Listen(1 << 20)}
	var err error
	d.tokens, err = ca.OpenTokens(filepath.Join(t.TempDir(), "tokens"), ca.TokenOptions{CAHash: d.a.Hash})
	must(t, err)
	cert, err := d.a.ServerCert("s1")
	must(t, err)
	g := grpc.NewServer(grpc.Creds(credentials.NewTLS(cert.GRPC())))
	keregev1.RegisterJoinServer(g, d)
	keregev1.RegisterSignServer(g, signs{d: d})
	var served sync.WaitGroup
	served.Go(func() { g.Serve(d.wire) })
	t.Cleanup(func() { g.Stop(); served.Wait() })
	return d
}

type signs struct {
	keregev1.UnimplementedSignServer
	d *joinDesk
}

func (s signs) Sign(ctx context.Context, r *keregev1.SignRequest) (*keregev1.SignResponse, error) {
	return s.d.Sign(ctx, r)
}

// dial reaches s1 and nothing else.
func (d *joinDesk) dial() grpc.DialOption {
	return grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
		if addr != "s1:7401" {
			return nil, errors.New("no route to " + addr)
		}
		return d.wire.DialContext(ctx)
	})
}

func (d *joinDesk) token(t *testing.T, node string) string {
	t.Helper()
	k, _, err := d.tokens.Create(node, ca.RoleNode, 0)
	must(t, err)
	return k.Text()
}

func TestJoiningAndRenewingOverTheWire(t *testing.T) {
	d, p := newJoinDesk(t), newPlace(t)
	m := p.open(t, nil)
	must(t, m.Join(t.Context(), []string{"gone:7401", "s1:7401"}, d.token(t, "vm-1"), "vm-1", d.dial()))
	if s := m.Node(); s == nil || s.ID != nodeID("vm-1") {
		t.Fatal(s)
	}
	conn, err := grpc.NewClient("passthrough:///s1:7401", grpc.WithTransportCredentials(credentials.NewTLS(m.ClientTLS())), d.dial())
	must(t, err)
	defer conn.Close()
	m.Want(web)
	defer run(t, m, keregev1.NewSignClient(conn))()
	must(t, m.Wait(t.Context(), web))
	if d.peer != nodeID("vm-1") {
		t.Errorf("the server saw %v", d.peer)
	}
	if err := m.Join(t.Context(), nil, d.token(t, "vm-1"), "vm-1", d.dial()); err == nil || !strings.Contains(err.Error(), "kerege leave") {
		t.Errorf("joined twice: %v", err)
	}
	if p.open(t, nil).Node() == nil {
		t.Error("the join is not on disk")
	}
}

func TestWhomANodeJoins(t *testing.T) {
	d := newJoinDesk(t)
	stranger := newAuthority(t, time.Hour)
	for name, c := range map[string]struct {
		token string
		err   error
		says  string
		final bool
	}{
		"another CA":    {token: keregev1.NewJoinToken(stranger.Hash(), nil).Text(), says: "another mesh's"},
		"a guess":       {token: keregev1.NewJoinToken(d.a.Hash(), nil).Text(), says: "does not know the token", final: true},
		"no token":      {token: "kj_x", says: "not whole"},
		"server is ill": {token: keregev1.NewJoinToken(d.a.Hash(), nil).Text(), err: status.Error(codes.Unavailable, "later"), says: "later"},
	} {
		t.Run(name, func(t *testing.T) {
			d.err = c.err
			m := newPlace(t).open(t, nil)
			err := m.Join(t.Context(), []string{"s1:7401"}, c.token, "vm-9", d.dial())
			if err == nil || !strings.Contains(err.Error(), c.says) || errors.Is(err, ErrRefused) != c.final {
				t.Errorf("%v, want %q", err, c.says)
			}
			if strings.Contains(err.Error(), c.token[3:]) && len(c.token) > 10 {
				t.Error("the error shows the token")
			}
			if _, ok := m.Mesh(); ok {
				t.Error("it joined")
			}
		})
	}
	m := newPlace(t).open(t, nil)
	if err := m.Join(t.Context(), nil, keregev1.NewJoinToken(d.a.Hash(), nil).Text(), "vm-9"); err == nil || !strings.Contains(err.Error(), "retry_join") {
		t.Error(err)
	}
}

func TestOnlyServersAreTalkedTo(t *testing.T) {
	d, p := newJoinDesk(t), newPlace(t)
	m := p.joined(t, d.a, nil)
	for name, id := range map[string]mesh.Identity{
		"a service":     mesh.ServiceIdentity("kerege.test", "web"),
		"a node":        nodeID("server"),
		"another realm": {TrustDomain: "other.test", Kind: mesh.KindServerIdentity, Name: "s1"},
	} {
		key, csr, err := newRequest()
		must(t, err)
		signer := d.a.Authority
		if id.TrustDomain != "kerege.test" {
			signer, err = ca.Open(filepath.Join(t.TempDir(), "ca"), ca.Options{TrustDomain: id.TrustDomain})
			must(t, err)
			defer signer.Close()
		}
		chain, err := signer.Sign(csr, id, 0)
		must(t, err)
		s, err := newSVID(chain, key)
		must(t, err)
		m.mu.Lock()
		pool := m.pool
		if signer != d.a.Authority {
			pool, _, err = poolOf(signer.Bundle()) // even with its CA among the trusted
			must(t, err)
		}
		m.mu.Unlock()
		if err := m.verifyServer(certs(t, s.Chain), pool, "kerege.test"); err == nil || !strings.Contains(err.Error(), "no server of") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func certs(t *testing.T, chain [][]byte) (list []*x509.Certificate) {
	t.Helper()
	for _, der := range chain {
		c, err := x509.ParseCertificate(der)
		must(t, err)
		list = append(list, c)
	}
	return list
}
