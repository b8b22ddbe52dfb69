package nomad

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/hashicorp/nomad/api"

	"github.com/kerege/kerege/mesh"
)

// ErrNone says that Nomad has no such allocation.
var ErrNone = errors.New("nomad has no such allocation")

// Facts is what only Nomad knows of an allocation in a network namespace of its
// own. One in the host's network has none.
type Facts struct {
	Addrs  []netip.Addr   `json:"addrs,omitempty"`
	Ports  []mesh.PortMap `json:"ports,omitempty"`
	Probes []mesh.Probe   `json:"probes,omitempty"`
	// Settled: all is known. An allocation's own address is not before its network is up.
	Settled bool `json:"settled,omitempty"`
}

// described is what is read of an allocation for its Facts.
type described struct {
	ID, TaskGroup string
	NetworkStatus *struct{ Address, AddressIPv6 string }

	AllocatedResources *struct {
		Shared struct {
			Networks []struct{ Mode string }
			Ports    []port
		}
	}
	Job *struct {
		TaskGroups []struct {
			Name     string
			Services []asked
			Tasks    []struct{ Services []asked }
		}
	}
}

type port struct {
	Label     string
	Value, To int
	HostIP    string
}

// app is the port inside: the host's where the job says none.
func (p port) app() uint16 {
	if p.To > 0 {
		return uint16(p.To)
	}
	return uint16(p.Value)
}

// asked is a service block of a job with what is asked of it.
type asked struct {
	PortLabel string
	Checks    []check
}

type check struct {
	Type, Path, Protocol, PortLabel, AddressMode, Method string
	GRPCUseTLS                                           bool
}

// Facts asks Nomad. The error is ErrNone, or ErrAway where nobody knows.
func (s *Source) Facts(ctx context.Context, id string) (Facts, error) {
	ctx, stop := context.WithTimeout(ctx, patience)
	defer stop()
	var got described
	_, err := s.client.Raw().Query("/v1/allocation/"+url.PathEscape(id), &got, (&api.QueryOptions{}).WithContext(ctx))
	switch {
	case statusOf(err) == http.StatusNotFound:
		return Facts{}, ErrNone
	case statusOf(err) == http.StatusForbidden:
		return Facts{}, fmt.Errorf("%w: the server's token may not read the job of allocation %s", ErrAway, mesh.Quote(id))
	case err != nil:
		return Facts{}, fmt.Errorf("%w: %w", ErrAway, err)
	case got.ID != id:
		return Facts{}, fmt.Errorf("%w: it answers for allocation %s", ErrAway, mesh.Quote(got.ID))
	}
	return got.facts(), nil
}

func (d *described) facts() (f Facts) {
	if d.AllocatedResources == nil || !slices.ContainsFunc(d.AllocatedResources.Shared.Networks, func(n struct{ Mode string }) bool {
		return n.Mode == "bridge" || strings.HasPrefix(n.Mode, "cni/")
	}) {
		f.Settled = true
		return f
	}
	if n := d.NetworkStatus; n != nil {
		for _, text := range []string{n.Address, n.AddressIPv6} {
			if a, err := netip.ParseAddr(text); err == nil {
				f.Addrs = append(f.Addrs, a.Unmap())
			}
		}
	}
	for _, p := range d.AllocatedResources.Shared.Ports {
		if p.Value > 0 && p.Value < 1<<16 && p.To < 1<<16 {
			f.Ports = append(f.Ports, mesh.PortMap{Host: uint16(p.Value), App: p.app()})
		}
	}
	f.Probes = d.probes()
	f.Settled = len(f.Addrs) > 0
	return f
}

// probes are the checks of the allocation's group that ask something.
func (d *described) probes() (list []mesh.Probe) {
	if d.Job == nil {
		return nil
	}
	for _, g := range d.Job.TaskGroups {
		if g.Name != d.TaskGroup {
			continue
		}
		services := slices.Clone(g.Services)
		for _, t := range g.Tasks {
			services = append(services, t.Services...)
		}
		for _, s := range services {
			for _, c := range s.Checks {
				if p, ok := d.probe(s, c); ok {
					list = append(list, p)
				}
			}
		}
	}
	return list
}

// probe is how a check arrives inside. A check that its client fills in, that is
// TLS, or that goes to no port of the allocation is none.
func (d *described) probe(s asked, c check) (p mesh.Probe, ok bool) {
	switch {
	case c.Type == "http" && c.Protocol != "https" && !strings.Contains(c.Path+c.Method, "${"):
		to, err := url.Parse(c.Path)
		if err != nil || to.Host != "" || to.Scheme != "" {
			return p, false
		}
		p.Path = (&url.URL{Scheme: "http", Host: "app", Path: "/"}).ResolveReference(to).RequestURI()
		if p.Method = strings.ToUpper(c.Method); p.Method == "" {
			p.Method = http.MethodGet
		}
	case c.Type == "grpc" && !c.GRPCUseTLS:
		p.Method, p.Path = http.MethodPost, "/grpc.health.v1.Health/Check"
	default:
		return p, false
	}
	label := c.PortLabel
	if label == "" {
		label = s.PortLabel
	}
	inside := c.AddressMode == "alloc"
	for _, x := range d.AllocatedResources.Shared.Ports {
		if x.Label == label {
			p.Port = x.app()
			if host, err := netip.ParseAddr(x.HostIP); err == nil && !inside && !host.IsLoopback() {
				p.From = host.Unmap() // who asks an address of its own host asks from that one; loopback is masqueraded on its way in
			}
			return p, p.Port != 0
		}
	}
	n, err := strconv.ParseUint(label, 10, 16)
	p.Port = uint16(n)
	return p, err == nil && n != 0 && inside
}
