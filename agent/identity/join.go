package identity

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"fmt"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	keregev1 "github.com/kerege/kerege/api/kerege/v1"
	"github.com/kerege/kerege/mesh"
)

// ErrRefused is wrapped when a server said no to a join: trying the same again
// does not help. Its text says what to do.
var ErrRefused = errors.New("the server refuses")

// Join shows a token to servers, one after the other, until one answers, and
// keeps the identity it gets. addrs are host:port; none: those in the token. The
// node's key is made here; a server that does not show the CA whose hash is in
// the token is not spoken to. dial is for tests: nil is the network.
func (m *Manager) Join(ctx context.Context, addrs []string, token, node string, dial ...grpc.DialOption) error {
	if s := m.Node(); s != nil && m.opt.Now().Before(s.NotAfter) {
		return fmt.Errorf("this host is in the mesh %s as %s; `kerege leave` takes it out first", s.ID.TrustDomain, s.ID.Name)
	}
	t, err := keregev1.ParseJoinToken(token)
	if err != nil {
		return err
	}
	if err := mesh.CheckNode(node); err != nil {
		return fmt.Errorf("the node's name %s %w", mesh.Quote(node), err)
	}
	if len(addrs) == 0 {
		addrs = t.Servers
	}
	if len(addrs) == 0 {
		return errors.New("neither the settings nor the token say where the servers are: retry_join in agent.hcl does")
	}
	var errs []error
	for _, addr := range addrs {
		err := m.joinAt(ctx, addr, t, node, dial)
		if err == nil {
			m.look()
			return nil
		}
		errs = append(errs, fmt.Errorf("joining at %s: %w", addr, err))
		if errors.Is(err, ErrRefused) || ctx.Err() != nil {
			break // the token may be spent now, or the caller is gone
		}
	}
	return errors.Join(errs...)
}

func (m *Manager) joinAt(ctx context.Context, addr string, t keregev1.JoinToken, node string, dial []grpc.DialOption) error {
	ctx, cancel := context.WithTimeout(ctx, signWithin)
	defer cancel()
	var domain string
	conn, err := grpc.NewClient("passthrough:///"+addr, append([]grpc.DialOption{
		grpc.WithTransportCredentials(credentials.NewTLS(m.pinnedTLS(t.CAHash, &domain))),
	}, dial...)...)
	if err != nil {
		return err
	}
	defer conn.Close()
	key, csr, err := newRequest()
	if err != nil {
		return err
	}
	answer, err := keregev1.NewJoinClient(conn).Join(ctx, &keregev1.JoinRequest{
		Token: t.Text(), Node: node, Csr: csr, Now: timestamppb.New(m.opt.Now()),
	})
	if err != nil {
		text := status.Convert(err).Message()
		switch status.Code(err) {
		case codes.PermissionDenied, codes.InvalidArgument, codes.FailedPrecondition, codes.Internal:
			return fmt.Errorf("%w: %s", ErrRefused, text)
		}
		return errors.New(text)
	}
	_, hashes, err := poolOf(answer.GetBundle())
	if err == nil && !hashes[t.CAHash] {
		err = errors.New("the CA of the token is not among the roots that the server sends")
	}
	if err == nil && domain != answer.GetTrustDomain() {
		err = fmt.Errorf("the server is of the trust domain %s and speaks for %s", mesh.Quote(domain), mesh.Quote(answer.GetTrustDomain()))
	}
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	return m.enter(answer, key, node, addr)
}

// enter takes in the answer to a join.
func (m *Manager) enter(answer *keregev1.JoinResponse, key *ecdsa.PrivateKey, node, addr string) error {
	want := mesh.Identity{TrustDomain: answer.GetTrustDomain(), Kind: mesh.KindNodeIdentity, Name: node}
	s, err := m.accept(answer.GetChain(), key, answer.GetBundle(), want)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRefused, err)
	}
	pool, _, err := poolOf(answer.GetBundle())
	if err != nil {
		return err
	}
	servers := answer.GetServers()
	if len(servers) == 0 {
		servers = []string{addr}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mesh = Mesh{TrustDomain: answer.GetTrustDomain(), Node: node, Servers: servers, Bundle: answer.GetBundle()}
	m.pool, m.trouble = pool, ""
	if old := m.held[Workload{}]; old != nil {
		defer close(old.changed)
	}
	m.add(Workload{}, s)
	if err := m.write(nodeFile, saved{Mesh: &m.mesh}, s); err != nil {
		return fmt.Errorf("joined, but the identity is not on disk and is lost with a restart: %w", err)
	}
	m.opt.Log.Info("joined", "identity", s.ID.String(), "until", s.NotAfter)
	return nil
}
