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

// witness is who knows what an allocation is: *nomad.Source, and *lastWord over it.
type witness interface {
	Registers(ctx context.Context, t nomad.Tie) error
}

// nomadSource is the name of the registry whose workloads Nomad itself vouches for.
const nomadSource = "nomad"

func (s *Server) judgeBy(src *nomad.Source) {
	s.words = newLastWord(src, filepath.Join(s.cfg.DataDir, "nomad-words.json"), s.log.Named("nomad"), s.now)
	s.witness = s.words
	s.evidence = jwt.New(jwt.Options{Fetch: src.Keys, File: filepath.Join(s.cfg.DataDir, "nomad-keys.json"), Log: s.log.Named("nomad"), Now: s.now})
}

// shown holds an allocation of Nomad against its workload identity. Where Nomad's
// own registry places it, that it runs, and on this node, is known. Where another
// does, such as Consul, its word for whose service it is is nobody's proof, and
// Nomad is asked. A workload of a host shows nothing. An error is for the wire.
func (s *signServer) shown(ctx context.Context, node, source string, req *keregev1.SignRequest) error {
	if s.evidence == nil || req.GetWorkload() == "" {
		return nil
	}
	name := memberName(req.GetService(), req.GetWorkload())
	if req.GetEvidence() == "" {
		return status.Errorf(codes.PermissionDenied, "%s is an allocation of Nomad and shows no workload identity: its job needs an identity block named kerege with aud = [%q], file = true, and a task that runs `kerege envoy`", name, jwt.Audience)
	}
	claims, err := s.evidence.Verify(ctx, req.GetEvidence(), jwt.Want{Allocation: req.GetWorkload(), Service: req.GetService()})
	switch {
	case errors.Is(err, jwt.ErrNoKeys):
		return status.Error(codes.Unavailable, fmt.Sprintf("the workload identity of %s cannot be judged now: %v", name, err))
	case err != nil:
		return status.Error(codes.PermissionDenied, fmt.Sprintf("the workload identity of %s is refused: %v", name, err))
	}
	if source == nomadSource || s.witness == nil {
		return nil
	}
	err = s.witness.Registers(ctx, nomad.Tie{Namespace: claims.Namespace, Allocation: req.GetWorkload(), Node: node, Service: req.GetService()})
	switch {
	case errors.Is(err, nomad.ErrAway):
		return status.Error(codes.Unavailable, fmt.Sprintf("whether %s is what %s says cannot be judged now: %v", name, source, err))
	case err != nil:
		return status.Error(codes.PermissionDenied, fmt.Sprintf("%s is not what %s says: %v", name, source, err))
	}
	return nil
}
