package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	keregev1 "github.com/kerege/kerege/api/kerege/v1"
	"github.com/kerege/kerege/ca"
	"github.com/kerege/kerege/mesh"
)

// admission says whether a node may still use a certificate: ca.Tokens.
type admission interface {
	Admitted(node string, issued time.Time) error
	Mark(node string) string
}

// callingNode is the node at the other end of a call, from its certificate alone, and
// when that was issued. Anybody else, and a node that was evicted or banned,
// gets an error for the wire.
func callingNode(ctx context.Context, admitted admission) (node string, issued time.Time, err error) {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return "", time.Time{}, status.Error(codes.Unauthenticated, "who calls is not known")
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok {
		return "", time.Time{}, status.Error(codes.Unauthenticated, "this is for TLS with a node certificate")
	}
	id, issued, err := ca.Peer(info.State.PeerCertificates)
	switch {
	case errors.Is(err, ca.ErrNoCertificate):
		return "", time.Time{}, status.Error(codes.Unauthenticated, "no node certificate was shown; `kerege join` gets one with a token")
	case err != nil:
		return "", time.Time{}, status.Error(codes.Unauthenticated, err.Error())
	case id.Kind != mesh.KindNodeIdentity:
		return "", time.Time{}, status.Errorf(codes.PermissionDenied, "%s is no node; only a node's agent may ask for this", id)
	}
	if err := admitted.Admitted(id.Name, issued); err != nil {
		return "", time.Time{}, status.Error(codes.PermissionDenied, err.Error())
	}
	return id.Name, issued, nil
}

// signServer renews nodes and gives them the identities of the services that the
// registries place on them, and no other.
type signServer struct {
	keregev1.UnimplementedSignServer
	log   hclog.Logger
	admit admission
	ca    signer
	views nodeViews

	evidence evidence                                    // nil: allocations of Nomad show nothing
	witness  witness                                     // nil: what a registry says of an allocation is believed
	barred   func(node, service, workload string) string // why the mesh keeps out what a registry places there; nil: never
}

func (s *signServer) Sign(ctx context.Context, req *keregev1.SignRequest) (*keregev1.SignResponse, error) {
	node, _, err := callingNode(ctx, s.admit)
	if err != nil {
		s.log.Warn("not signed", "address", addressOf(ctx), "service", req.GetService(), "why", status.Convert(err).Message())
		return nil, err
	}
	id := mesh.Identity{TrustDomain: s.ca.TrustDomain(), Kind: mesh.KindNodeIdentity, Name: node}
	if req.GetService() != "" {
		if err := s.allowed(ctx, node, req); err != nil {
			s.log.Warn("not signed", "node", node, "address", addressOf(ctx), "service", req.GetService(), "workload", req.GetWorkload(), "why", status.Convert(err).Message())
			return nil, err
		}
		id = mesh.ServiceIdentity(id.TrustDomain, mesh.ServiceName(req.GetService()))
	}
	chain, err := s.ca.SignFor(ctx, node, req.GetCsr(), id, 0, s.admit.Mark(node))
	switch {
	case errors.Is(err, ca.ErrSign):
		s.log.Warn("not signed", "node", node, "identity", id.String(), "why", err)
		return nil, status.Error(codes.InvalidArgument, err.Error())
	case errors.Is(err, ca.ErrBusy):
		return nil, status.Error(codes.ResourceExhausted, err.Error())
	case ctx.Err() != nil:
		return nil, status.FromContextError(ctx.Err()).Err()
	case err != nil:
		s.log.Error("signing failed", "node", node, "identity", id.String(), "error", err)
		return nil, status.Error(codes.Unavailable, "this server cannot sign now; its log says why")
	}
	s.log.Info("signed", "node", node, "identity", id.String(), "workload", req.GetWorkload())
	return &keregev1.SignResponse{Chain: chain, Bundle: s.ca.Bundle()}, nil
}

// allowed says why a node may not have a service's identity; nil when it may.
func (s *signServer) allowed(ctx context.Context, node string, req *keregev1.SignRequest) error {
	source, err := s.placed(node, req.GetService(), req.GetWorkload())
	if err != nil {
		return status.Error(codes.PermissionDenied, err.Error())
	}
	return s.shown(ctx, node, source, req)
}

// placed is the registry that places a service on a node.
func (s *signServer) placed(node, service, workload string) (source string, err error) {
	if err := mesh.CheckName(service); err != nil {
		return "", fmt.Errorf("the service's name %s %w", mesh.Quote(service), err)
	}
	view, _ := s.views.View(node)
	var has []string
	for _, p := range view.placement {
		if p.GetService() == service && p.GetWorkload() == workload {
			return p.GetSource(), nil
		}
		has = append(has, memberName(p.GetService(), p.GetWorkload()))
	}
	if s.barred != nil {
		if why := s.barred(node, service, workload); why != "" {
			return "", fmt.Errorf("the node %s may not have %s: %s", mesh.Quote(node), mesh.Quote(memberName(service, workload)), why)
		}
	}
	slices.Sort(has)
	list := "nothing"
	if len(has) > 0 {
		list = strings.Join(slices.Compact(has), ", ")
	}
	return "", fmt.Errorf("no registry places %s on the node %s (there is: %s); register it on this node, under this node's name, and the agent gets its identity by itself",
		mesh.Quote(memberName(service, workload)), mesh.Quote(node), list)
}

// memberName is "<service>[/<workload>]".
func memberName(service, workload string) string {
	if workload == "" {
		return service
	}
	return service + "/" + workload
}
