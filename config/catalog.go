package config

import (
	"fmt"
	"slices"

	"github.com/kerege/kerege/mesh"
)

// CatalogWarnings holds a mesh against the instances that the registries know
// (the mesh's own are added): a subset whose filter matches none of its
// service's instances, a target of which nobody knows an instance, and a service
// of an intention that nobody knows, where it is nearly one that is known.
func CatalogWarnings(m *Mesh, instances []mesh.Instance) Diagnostics {
	s := &sink{files: m.places.lines.files, lines: map[string][]int{}}
	byService := map[mesh.ServiceName][]*mesh.Instance{}
	for _, list := range [][]mesh.Instance{instances, m.Instances} {
		for i := range list {
			byService[list[i].Service] = append(byService[list[i].Service], &list[i])
		}
	}
	for _, p := range m.places.subsets {
		all := byService[p.service]
		if len(all) > 0 && !matchesAny(p.subset.Match, all) {
			s.warnf(codeNoMatch, p.where, "Check the filter against `kerege services`. Until an instance matches, the subset's share follows if_empty.",
				"subset %q of %q matches none of %s", p.subset.Name, p.service, plural(len(all), "instance"))
		}
	}
	var known []string
	for name := range byService {
		known = append(known, string(name))
	}
	slices.Sort(known)
	for _, p := range m.places.targets {
		if len(byService[p.service]) > 0 {
			continue
		}
		fix := "Calls to it are answered with 503 until an instance is registered."
		if near := nearest(string(p.service), known); near != "" {
			fix = fmt.Sprintf("Did you mean %q? %s", near, fix)
		}
		s.warnf(codeUnseen, p.where, fix, "no registry and no file knows an instance of %q", p.service)
	}
	for _, c := range m.Services {
		known = append(known, string(c.Name))
	}
	for _, p := range m.places.named {
		// Rights are often written before their service is there: only what looks
		// like a slip is worth a word.
		if near := nearest(string(p.service), known); near != "" && !slices.Contains(known, string(p.service)) {
			s.warnf(codeUnseen, p.where, fmt.Sprintf("Did you mean %q?", near), "no registry and no file knows a service %q", p.service)
		}
	}
	s.diags.sort()
	return s.diags
}

// SubsetWarnings is CatalogWarnings for subsets alone.
func SubsetWarnings(m *Mesh, instances []mesh.Instance) Diagnostics {
	var out Diagnostics
	for _, d := range CatalogWarnings(m, instances) {
		if d.Code == codeNoMatch {
			out = append(out, d)
		}
	}
	return out
}

func matchesAny(m mesh.Matcher, all []*mesh.Instance) bool {
	for _, i := range all {
		if m.Match(i) {
			return true
		}
	}
	return false
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}
