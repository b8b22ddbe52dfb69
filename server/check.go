package server

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"github.com/kerege/kerege/config"
	"github.com/kerege/kerege/mesh"
)

// check finds what only a server knows to be wrong with mesh files that are
// right in themselves.
func (s *Server) check(m *config.Mesh) config.Diagnostics {
	return append(s.checkTrustDomain(m), s.checkTargets(m)...)
}

// checkTrustDomain refuses mesh files whose trust domain, said or by default, is
// not the CA's.
func (s *Server) checkTrustDomain(m *config.Mesh) config.Diagnostics {
	signs, says := s.signsFor, trustDomainOf(m)
	if s.ca != nil {
		signs = s.ca.TrustDomain()
	}
	if signs == "" || says == signs {
		return nil
	}
	fix := fmt.Sprintf("A trust domain is for the life of a mesh: write mesh { trust_domain = %q }. For another mesh, which every host joins anew, give the server another data_dir.", signs)
	if m.Config == nil {
		return config.Diagnostics{{Severity: config.Error, Code: "KRG1090", Fix: fix, Position: config.Position{File: strings.Join(s.cfg.MeshPaths, ", ")},
			Message: fmt.Sprintf("no mesh block says the trust domain, so that it would be %q, and this server's CA signs for %q", says, signs)}}
	}
	return config.Diagnostics{refusal(m, "KRG1090", m.Config.Pos, fmt.Sprintf("the trust domain is %q, and this server's CA signs for %q", says, signs), fix)}
}

// trustDomainOf is what mesh files say, or leave to the default.
func trustDomainOf(m *config.Mesh) string {
	if m == nil || m.Config == nil || m.Config.TrustDomain == "" {
		return mesh.DefaultTrustDomain
	}
	return m.Config.TrustDomain
}

// checkTargets refuses routes to services that nobody knows: applied, they would
// turn calls that are answered now into 503s.
func (s *Server) checkTargets(m *config.Mesh) config.Diagnostics {
	if s.hub == nil || s.hub.Waiting() != "" {
		return nil // the registries have not spoken: unknown is not empty
	}
	snap := s.hub.Snapshot()
	names := snap.Services()
	for _, c := range m.Services {
		names = append(names, c.Name)
	}
	known := func(name mesh.ServiceName) bool {
		return len(snap.Instances(name)) > 0 || slices.ContainsFunc(m.Services, func(c mesh.ServiceConfig) bool { return c.Name == name }) ||
			slices.ContainsFunc(m.Instances, func(i mesh.Instance) bool { return i.Service == name })
	}
	var diags config.Diagnostics
	for _, r := range m.Routes {
		for _, rule := range r.Rules {
			for _, to := range rule.To {
				if !known(to.Service) {
					diags = append(diags, refusal(m, "KRG1091", to.Pos,
						fmt.Sprintf("no registry and no file knows a service %q: calls would be answered with 503", to.Service),
						config.DidYouMean(to.Service, names)+fmt.Sprintf("If it comes later, say so: service %q {}", to.Service)))
				}
			}
		}
	}
	return diags
}

// refusal is an error of the server's at a place in the files.
func refusal(m *config.Mesh, code string, p mesh.Pos, what, fix string) config.Diagnostic {
	return config.Diagnostic{Severity: config.Error, Code: code, Message: what, Fix: fix,
		Position: config.Position{File: p.File, Line: p.Line, Column: p.Column}, Source: lineOf(m.Sources[p.File], p.Line)}
}

// lineOf is one line of a text, 1-based.
func lineOf(text []byte, n int) string {
	for line := range bytes.Lines(text) {
		if n--; n == 0 {
			return string(bytes.TrimRight(line, "\r\n"))
		}
	}
	return ""
}
