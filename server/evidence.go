package server

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	keregev1 "github.com/kerege/kerege/api/kerege/v1"
	"github.com/kerege/kerege/ca/jwt"
	"github.com/kerege/kerege/registry/nomad"
)

// evidence judges what an allocation shows of itself: *jwt.Verifier.
type evidence interface {
	Verify(ctx context.Context, token string, want jwt.Want) (jwt.Claims, error)
}

// nomadSource is the name of the registry whose workloads show evidence.
const nomadSource = "nomad"

func (s *Server) judgeBy(src *nomad.Source) {
	s.evidence = jwt.New(jwt.Options{Fetch: src.Keys, File: filepath.Join(s.cfg.DataDir, "nomad-keys.json"), Log: s.log.Named("nomad"), Now: s.now})
}

// shown holds an allocation of Nomad against its workload identity. That it runs,
// and on this node, is what the registry says: it is placed. What other
// registries place shows nothing. An error is for the wire.
func (s *signServer) shown(ctx context.Context, source string, req *keregev1.SignRequest) error {
	if source != nomadSource || s.evidence == nil || req.GetWorkload() == "" {
		return nil
	}
	name := memberName(req.GetService(), req.GetWorkload())
	if req.GetEvidence() == "" {
		return status.Errorf(codes.PermissionDenied, "%s is an allocation of Nomad and shows no workload identity: its job needs an identity block named kerege with aud = [%q], file = true, and a task that runs `kerege envoy`", name, jwt.Audience)
	}
	_, err := s.evidence.Verify(ctx, req.GetEvidence(), jwt.Want{Allocation: req.GetWorkload(), Service: req.GetService()})
	switch {
	case errors.Is(err, jwt.ErrNoKeys):
		return status.Error(codes.Unavailable, fmt.Sprintf("the workload identity of %s cannot be judged now: %v", name, err))
	case err != nil:
		return status.Error(codes.PermissionDenied, fmt.Sprintf("the workload identity of %s is refused: %v", name, err))
	}
	return nil
}
