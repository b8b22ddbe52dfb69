package server

import (
	"context"
	"errors"
	"net"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	keregev1 "github.com/kerege/kerege/api/kerege/v1"
	"github.com/kerege/kerege/ca"
	"github.com/kerege/kerege/mesh"
)

// spender uses up join tokens: ca.Tokens.
type spender interface {
	Spend(text, node, address string) error
	Mark(node string) string
}

// signer issues certificates: ca.Authority.
type signer interface {
	Sign(csr []byte, id mesh.Identity, ttl time.Duration, marks ...string) ([][]byte, error)
	SignFor(ctx context.Context, node string, csr []byte, id mesh.Identity, ttl time.Duration, marks ...string) ([][]byte, error)
	Bundle() []byte
	TrustDomain() string
}

// joinServer lets hosts with a token in. It is the one service that needs no
// certificate, so nothing is done for a stranger that costs more than a handshake.
type joinServer struct {
	keregev1.UnimplementedJoinServer
	log     hclog.Logger
	tokens  spender
	ca      signer
	servers func() []string // what the node keeps to find the control plane again
	now     func() time.Time

	replaced func(node string) // ends what a host before of that name has open; nil in tests
}

// Join checks everything that is the caller's before the token is spent, so that
// a mistake does not use it up.
func (s *joinServer) Join(ctx context.Context, req *keregev1.JoinRequest) (*keregev1.JoinResponse, error) {
	if req.GetNow() != nil {
		if skew := req.GetNow().AsTime().Sub(s.now()); skew > keregev1.MaxSkew || skew < -keregev1.MaxSkew {
			s.log.Warn("a node may not join: its clock is wrong", "node", req.GetNode(), "skew", skew.Round(time.Second))
			return nil, status.Errorf(codes.FailedPrecondition, "this host's clock is %s away from the server's, more than %s; set it right (timedatectl), then join again: the token is not spent",
				skew.Round(time.Second).Abs(), keregev1.MaxSkew)
		}
	}
	if err := ca.CheckRequest(req.GetCsr()); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if err := s.tokens.Spend(req.GetToken(), req.GetNode(), addressOf(ctx)); err != nil {
		switch {
		case errors.Is(err, ca.ErrToken):
			return nil, status.Error(codes.PermissionDenied, err.Error())
		case errors.Is(err, ca.ErrTooFast):
			return nil, status.Error(codes.ResourceExhausted, err.Error())
		}
		s.log.Error("a join failed", "node", req.GetNode(), "error", err)
		return nil, status.Error(codes.Internal, "the server cannot write its state down, so the token is not spent; its log says why, then join again")
	}
	if s.replaced != nil {
		s.replaced(req.GetNode())
	}
	id := mesh.Identity{TrustDomain: s.ca.TrustDomain(), Kind: mesh.KindNodeIdentity, Name: req.GetNode()}
	chain, err := s.ca.Sign(req.GetCsr(), id, 0, s.tokens.Mark(id.Name))
	if err != nil {
		s.log.Error("a node joined and cannot be given a certificate", "node", req.GetNode(), "error", err)
		return nil, status.Error(codes.Internal, "the server cannot sign, and its log says why; make a new token for this node when that is put right")
	}
	s.log.Info("node joined", "node", req.GetNode(), "address", addressOf(ctx), "identity", id.String())
	return &keregev1.JoinResponse{
		Chain: chain, Bundle: s.ca.Bundle(), TrustDomain: id.TrustDomain, Node: id.Name, Servers: s.servers(),
	}, nil
}

// addressOf is where a call comes from, without its port.
func addressOf(ctx context.Context) string {
	p, ok := peer.FromContext(ctx)
	if !ok || p.Addr == nil {
		return "unknown"
	}
	if host, _, err := net.SplitHostPort(p.Addr.String()); err == nil {
		return host
	}
	return p.Addr.String()
}
