package config

import (
	"fmt"
	"slices"

	"github.com/kerege/kerege/mesh"
)

// CatalogWarnings holds a mesh against the instances that the registries know
// (the mesh's own are added): a subset whose filter matches none of its
// service's instances, a target of which nobody knows an instance, and a service
// of an intention that nobody knows.
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
	registered := newSpeller(known)
	for _, p := range m.places.targets {
		if len(byService[p.service]) > 0 {
			continue
		}
		fix := "Calls to it are answered with 503 until an instance is registered."
		if near := registered.near(string(p.service)); near != "" {
			fix = fmt.Sprintf("Did you mean %q? %s", near, fix)
		}
		s.warnf(codeUnseen, p.where, fix, "no registry and no file knows an instance of %q", p.service)
	}
	for _, c := range m.Services {
		known = append(known, string(c.Name))
	}
	declared := newSpeller(known)
	said := map[mesh.ServiceName]bool{}
	for _, p := range m.places.named {
		if declared.has[string(p.service)] || said[p.service] {
			continue
		}
		said[p.service] = true
		fix := "It has no effect until a service of that name is registered. If that is meant, say so: service \"" + string(p.service) + "\" {}"
		if near := declared.near(string(p.service)); near != "" {
			fix = fmt.Sprintf("Did you mean %q?", near)
		}
		s.warnf(codeUnseen, p.where, fix, "no registry and no file knows a service %q", p.service)
	}
	s.diags.sort()
	return s.diags
}

// Slips holds a mesh against itself, where the registries cannot be asked: a
// service of an intention that is nearly one of the files' own is warned of, and
// the others that no file knows are returned by name, sorted.
func Slips(m *Mesh) (Diagnostics, []mesh.ServiceName) {
	s := &sink{files: m.places.lines.files, lines: map[string][]int{}}
	var known []string
	for _, c := range m.Services {
		known = append(known, string(c.Name))
	}
	for _, r := range m.Routes {
		known = append(known, string(r.Service))
	}
	slices.Sort(known)
	spell := newSpeller(slices.Compact(known))
	var unknown []mesh.ServiceName
	for _, p := range m.places.named {
		if spell.has[string(p.service)] {
			continue
		}
		if near := spell.near(string(p.service)); near != "" && distance(near, string(p.service), 3) <= 2 {
			s.warnf(codeUnseen, p.where, fmt.Sprintf("Did you mean %q?", near), "no file knows a service %q", p.service)
			continue
		}
		unknown = append(unknown, p.service)
	}
	for _, p := range m.places.subsets {
		var own []*mesh.Instance
		for i := range m.Instances {
			if m.Instances[i].Service == p.service {
				own = append(own, &m.Instances[i])
			}
		}
		if len(own) > 0 && !matchesAny(p.subset.Match, own) {
			s.warnf(codeNoMatch, p.where, "Right where a registry has some that match: kerege plan tells.",
				"subset %q of %q matches none of the %s in the files", p.subset.Name, p.service, plural(len(own), "instance"))
		}
	}
	s.diags.sort()
	slices.Sort(unknown)
	return s.diags, slices.Compact(unknown)
}

// DidYouMean is the beginning of a fix that names the service that is probably
// meant, with a blank behind it; "" where none is near.
func DidYouMean(given mesh.ServiceName, known []mesh.ServiceName) string {
	var names []string
	for _, k := range known {
		names = append(names, string(k))
	}
	slices.Sort(names)
	if near := nearest(string(given), slices.Compact(names)); near != "" {
		return fmt.Sprintf("Did you mean %q? ", near)
	}
	return ""
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
