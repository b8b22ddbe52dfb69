package server

import (
	"fmt"
	"path/filepath"

	"google.golang.org/grpc"

	"github.com/kerege/kerege/api"
	keregev1 "github.com/kerege/kerege/api/kerege/v1"
	"github.com/kerege/kerege/config"
	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/registry"
	"github.com/kerege/kerege/registry/consul"
	"github.com/kerege/kerege/registry/nomad"
)

// sources are the registries that the settings name.
func (s *Server) sources() ([]registry.Source, error) {
	list := []registry.Source{s.files}
	if c := s.cfg.Consul; c != nil {
		for i, dc := range append([]string{c.Datacenter}, c.Datacenters...) {
			opt := consulOptions(c, dc)
			if i > 0 {
				opt.Name = "consul/" + dc
			}
			opt.Wanted, opt.Logger = s.hub.Wanted, s.log.Named("consul")
			src, err := consul.New(opt)
			if err != nil {
				return nil, fmt.Errorf("opening consul: %w", err)
			}
			list = append(list, src)
		}
	}
	if n := s.cfg.Nomad; n != nil {
		opt := nomadOptions(n)
		opt.Logger = s.log.Named("nomad")
		src, err := nomad.New(opt)
		if err != nil {
			return nil, fmt.Errorf("opening nomad: %w", err)
		}
		s.judgeBy(src)
		s.allocations = openAllocations(&allocations{log: s.log.Named("nomad"), ask: src.Facts, put: s.hub.Put, snap: s.hub.Snapshot,
			file: filepath.Join(s.cfg.DataDir, "nomad-allocations.json"), now: s.now})
		s.views.wants = s.allocations.want
		list = append(list, src)
	}
	return list, nil
}

func nomadOptions(n *config.Nomad) nomad.Options {
	opt := nomad.Options{
		Name: "nomad", Address: n.Address, Region: n.Region, Token: n.Token, TokenFile: n.TokenFile,
		CAFile: n.CAFile, CAPath: n.CAPath, CertFile: n.CertFile, KeyFile: n.KeyFile,
		TLSServerName: n.TLSServerName, SkipVerify: n.SkipVerify,
	}
	if n.Namespace != "" {
		opt.Namespaces = []string{n.Namespace}
	}
	return opt
}

func consulOptions(c *config.Consul, datacenter string) consul.Options {
	return consul.Options{
		Name: "consul", Address: c.Address, Scheme: c.Scheme, Token: c.Token, TokenFile: c.TokenFile,
		Datacenter: datacenter, Namespace: c.Namespace, Partition: c.Partition,
		CAFile: c.CAFile, CAPath: c.CAPath, CertFile: c.CertFile, KeyFile: c.KeyFile,
		TLSServerName: c.TLSServerName, SkipVerify: c.SkipVerify,
	}
}

// registerNodes adds join, sign and node streams to the nodes' port.
func (s *Server) registerNodes(g *grpc.Server) {
	audit := s.log.Named("audit")
	n := s.nodeStreams
	n.log, n.admit, n.views, n.members, n.table = audit, s.tokens, s.views, s.hub.Members(), s.nodes
	n.trustDomain, n.now, n.left, n.tokenNode = s.ca.TrustDomain(), s.now, s.tokens.SetLeft, s.tokens.NodeOf
	n.mesh = func() (*mesh.Snapshot, []api.Node) { return s.hub.Snapshot(), s.nodeStatus() }
	keregev1.RegisterJoinServer(g, &joinServer{log: audit, tokens: s.tokens, ca: s.ca, servers: s.servers, now: s.now,
		replaced: func(node string) {
			s.putTrust()
			s.planner.sentAway("", s.tokens.Away())
			s.drop(node, "replaced by another host")
		}})
	keregev1.RegisterSignServer(g, &signServer{log: audit, admit: s.tokens, ca: s.ca, views: s.views, evidence: s.evidence, witness: s.witness,
		barred: func(node, service, workload string) string {
			return s.hub.Snapshot().Barred(node, mesh.ServiceName(service), workload)
		}})
	keregev1.RegisterNodeServer(g, s.nodeStreams)
}
