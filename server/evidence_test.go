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
	return jwt.Claims{}, nil
}

func TestAnAllocationShowsItsIdentity(t *testing.T) {
	d := newDesk(t)
	d.show(func(v *nodeView) {
		v.placement = []*keregev1.Placement{{Service: "web", Source: "file"}, {Service: "job", Workload: "alloc-1", Source: "nomad"}, {Service: "db", Workload: "inst-1", Source: "consul"}}
	})
	j := &judge{}
	s := &signServer{log: hclog.NewNullLogger(), views: d, evidence: j}
	ask := func(service, workload, evidence string) error {
		return s.allowed(t.Context(), "vm-1", &keregev1.SignRequest{Service: service, Workload: workload, Evidence: evidence})
	}
	noError(t, ask("web", "", ""))
	noError(t, ask("db", "inst-1", ""))
	if len(j.seen) != 0 {
		t.Errorf("other registries' workloads were judged: %v", j.seen)
	}
	noError(t, ask("job", "alloc-1", "good"))
	if len(j.seen) != 1 || j.seen[0] != (jwt.Want{Allocation: "alloc-1", Service: "job"}) {
		t.Errorf("judged by %v", j.seen)
	}
	refused(t, ask("job", "alloc-1", ""), codes.PermissionDenied, "identity block")
	refused(t, ask("job", "alloc-1", "forged"), codes.PermissionDenied, "no JWT")
	refused(t, ask("job", "alloc-2", "good"), codes.PermissionDenied, "no registry places")
	j.err = fmt.Errorf("%w: connection refused", jwt.ErrNoKeys)
	refused(t, ask("job", "alloc-1", "good"), codes.Unavailable, "cannot be judged now")
	s.evidence = nil // a server that reads no Nomad any more asks for nothing
	noError(t, ask("job", "alloc-1", ""))
}
