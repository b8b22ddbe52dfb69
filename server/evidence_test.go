package server

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc/codes"

	keregev1 "github.com/kerege/kerege/api/kerege/v1"
	"github.com/kerege/kerege/ca/jwt"
	"github.com/kerege/kerege/registry/nomad"
)

// judge believes one token, of one allocation.
type judge struct {
	err  error
	seen []jwt.Want
}

func (j *judge) Verify(_ context.Context, token string, want jwt.Want) (jwt.Claims, error) {
	j.seen = append(j.seen, want)
	if j.err != nil {
		return jwt.Claims{}, j.err
	}
	if token != "good" {
		return jwt.Claims{}, errors.New("the token is no JWT")
	}
	return jwt.Claims{Allocation: want.Allocation, Namespace: "team"}, nil
}

// knows is Nomad's word for what another registry says.
type knows struct {
	err   error
	asked []nomad.Tie
}

func (k *knows) Registers(_ context.Context, t nomad.Tie) error {
	k.asked = append(k.asked, t)
	return k.err
}

func TestAnAllocationShowsItsIdentity(t *testing.T) {
	d := newDesk(t)
	d.show(func(v *nodeView) {
		v.placement = []*keregev1.Placement{{Service: "web", Source: "file"}, {Service: "job", Workload: "alloc-1", Source: "nomad"}, {Service: "db", Workload: "inst-1", Source: "consul"}}
	})
	j, k := &judge{}, &knows{}
	s := &signServer{log: hclog.NewNullLogger(), views: d, evidence: j, witness: k}
	ask := func(service, workload, evidence string) error {
		return s.allowed(t.Context(), "vm-1", &keregev1.SignRequest{Service: service, Workload: workload, Evidence: evidence})
	}
	noError(t, ask("web", "", ""))
	if len(j.seen) != 0 {
		t.Errorf("workloads of the host were judged: %v", j.seen)
	}
	noError(t, ask("job", "alloc-1", "good"))
	if len(j.seen) != 1 || j.seen[0] != (jwt.Want{Allocation: "alloc-1", Service: "job"}) {
		t.Errorf("judged by %v", j.seen)
	}
	refused(t, ask("job", "alloc-1", ""), codes.PermissionDenied, "identity block")
	refused(t, ask("job", "alloc-1", "forged"), codes.PermissionDenied, "no JWT")
	refused(t, ask("job", "alloc-2", "good"), codes.PermissionDenied, "no registry places")
	if len(k.asked) != 0 {
		t.Errorf("nomad was asked for what its own registry says: %v", k.asked)
	}
	refused(t, ask("db", "inst-1", ""), codes.PermissionDenied, "identity block")
	noError(t, ask("db", "inst-1", "good"))
	if want := (nomad.Tie{Namespace: "team", Allocation: "inst-1", Node: "vm-1", Service: "db"}); len(k.asked) != 1 || k.asked[0] != want {
		t.Errorf("nomad was asked for %v", k.asked)
	}
	k.err = errors.New("the allocation's job has no such service")
	refused(t, ask("db", "inst-1", "good"), codes.PermissionDenied, "is not what consul says")
	k.err = fmt.Errorf("%w: connection refused", nomad.ErrAway)
	refused(t, ask("db", "inst-1", "good"), codes.Unavailable, "cannot be judged now")
	j.err = fmt.Errorf("%w: connection refused", jwt.ErrNoKeys)
	refused(t, ask("job", "alloc-1", "good"), codes.Unavailable, "cannot be judged now")
	s.evidence = nil // a server that reads no Nomad any more asks for nothing
	noError(t, ask("job", "alloc-1", ""))
}
