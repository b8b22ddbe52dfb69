package nomad

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/hashicorp/nomad/api"

	"github.com/kerege/kerege/mesh"
)

// ErrAway says that Nomad could not be asked.
var ErrAway = errors.New("nomad cannot be asked")

// Tie is what another registry says of an allocation: anybody who may write there
// can say it.
type Tie struct {
	Namespace, Allocation, Node, Service string
}

// Registers says whether Nomad bears out a tie: the allocation is to run, on that
// node, and its job's group has that service. An error is a sentence for whoever
// asked; ErrAway where nobody knows.
func (s *Source) Registers(ctx context.Context, t Tie) error {
	ctx, stop := context.WithTimeout(ctx, patience)
	defer stop()
	var got allocation
	_, err := s.client.Raw().Query("/v1/allocation/"+url.PathEscape(t.Allocation), &got, (&api.QueryOptions{Namespace: t.Namespace}).WithContext(ctx))
	switch {
	case statusOf(err) == http.StatusNotFound:
		return fmt.Errorf("nomad has no allocation %s: is the service left over in consul?", mesh.Quote(t.Allocation))
	case statusOf(err) == http.StatusForbidden:
		return fmt.Errorf("%w: the server's token may not read the allocation in namespace %s; %s", ErrAway, mesh.Quote(t.Namespace), remedy(err))
	case err != nil:
		return fmt.Errorf("%w: %w", ErrAway, err)
	}
	return bears(&got, t)
}

// bears holds a tie against what Nomad knows.
func bears(got *allocation, t Tie) error {
	switch {
	case got.ID != t.Allocation || got.Namespace != t.Namespace:
		return fmt.Errorf("nomad answers for allocation %s and not for %s", mesh.Quote(got.ID), mesh.Quote(t.Allocation))
	case ended(got.ClientStatus):
		return fmt.Errorf("the allocation is over: nomad says %s", mesh.Quote(got.ClientStatus))
	case got.NodeName != t.Node:
		return fmt.Errorf("nomad runs the allocation on %s and not on %s: give a client of nomad and of consul one name", mesh.Quote(got.NodeName), mesh.Quote(t.Node))
	case got.Job == nil:
		return fmt.Errorf("%w: it does not say the allocation's job", ErrAway)
	}
	for _, s := range got.groupServices() {
		if s.Name == t.Service {
			return nil
		}
	}
	return fmt.Errorf("the allocation's job has no service %s in its group %s: a registration in consul says so, and nobody else", mesh.Quote(t.Service), mesh.Quote(got.TaskGroup))
}

func ended(status string) bool {
	return status == api.AllocClientStatusComplete || status == api.AllocClientStatusFailed || status == api.AllocClientStatusLost
}

// groupServices are the service blocks of the allocation's group, of whatever provider.
func (a *allocation) groupServices() (all []spec) {
	if a.Job == nil {
		return nil
	}
	for _, g := range a.Job.TaskGroups {
		if g.Name != a.TaskGroup {
			continue
		}
		all = append(all, g.Services...)
		for _, t := range g.Tasks {
			all = append(all, t.Services...)
		}
	}
	return all
}
