package server

import (
	"cmp"
	"slices"
	"strings"

	"github.com/kerege/kerege/api"
	"github.com/kerege/kerege/config"
	"github.com/kerege/kerege/mesh"
)

// servicesOf is GET /v1/services: each service with its instances, where they
// come from, and why callers do not get those that they do not get.
func servicesOf(s *mesh.Snapshot, hosts []api.Node) []api.Service {
	named := byName(hosts)
	all := make([]api.Service, 0, len(s.Services()))
	warnings := map[string][]string{}
	for _, c := range ofServices(s.Conflicts()) {
		warnings[c.Key.Name] = append(warnings[c.Key.Name], c.What)
	}
	for _, name := range s.Services() {
		v := serviceOf(s, s.Service(name), named)
		v.Warnings = warnings[string(name)]
		all = append(all, v)
	}
	return all
}

// ofServices are the conflicts that are about one service or its instances.
func ofServices(all []mesh.Conflict) []mesh.Conflict {
	return slices.DeleteFunc(all, func(c mesh.Conflict) bool { return c.Key.Kind != mesh.KindService && c.Key.Kind != mesh.KindInstances })
}

func serviceOf(s *mesh.Snapshot, svc *mesh.Service, hosts map[string]api.Node) api.Service {
	v := api.Service{
		Name: string(svc.Name), Protocol: protocolName(svc.Protocol), MTLS: string(svc.MTLS),
		Default: string(svc.DefaultIntention), Where: where(svc.Pos),
		Ports: []api.Port{}, Instances: []api.Instance{}, Callers: callersOf(s, svc.Name),
	}
	if svc.VIP4.IsValid() {
		v.VIP4 = svc.VIP4.String()
	}
	if svc.VIP6.IsValid() {
		v.VIP6 = svc.VIP6.String()
	}
	for _, p := range svc.Ports {
		v.Ports = append(v.Ports, api.Port{Name: p.Name, Number: p.Number, Protocol: protocolName(p.Protocol), MTLS: string(p.MTLS)})
	}
	for _, in := range s.Instances(svc.Name) {
		i := api.Instance{
			ID: in.ID, Source: in.Source, Node: in.Node, Address: in.Addr.String(),
			Health: healthName(in.Health), Weight: in.Weight, In: in.In, Where: where(in.Pos),
		}
		if !in.In {
			if i.Held = heldBecause(svc, in, hosts); i.Held == "" {
				i.Why = hostReason(in, hosts)
			}
		}
		for _, sub := range svc.Subsets {
			if sub.Match != nil && sub.Match.Match(in) {
				i.Subsets = append(i.Subsets, sub.Name)
			}
		}
		v.Instances = append(v.Instances, i)
	}
	return v
}

// disagreements are the conflicts about services that there will be.
func disagreements(m *config.Mesh, then *mesh.Snapshot) config.Diagnostics {
	var all config.Diagnostics
	for _, c := range ofServices(then.Conflicts()) {
		var pos mesh.Pos
		if len(c.Where) > 0 {
			pos = c.Where[0]
		}
		d := refusal(m, "KRG1092", pos, c.What, "")
		d.Severity = config.Warning
		all = append(all, d)
	}
	return all
}

// heldReason is why a service's callers do not get an instance; "" when they do.
func heldReason(svc *mesh.Service, in *mesh.Instance) string {
	if in.Barred != "" {
		return in.Barred
	}
	if svc.MTLS != mesh.MTLSStrict {
		return ""
	}
	if in.Node == "" {
		return "no node answers for it: say which in its instance block (node = \"…\")"
	}
	return "its host is not in the mesh for this service: kerege join and kerege capture apply on " + in.Node
}

// heldBecause is heldReason with what its host said, or an operator did to it.
func heldBecause(svc *mesh.Service, in *mesh.Instance, hosts map[string]api.Node) string {
	held := heldReason(svc, in)
	if held == "" || in.Barred != "" || in.Node == "" {
		return held
	}
	return cmp.Or(hostReason(in, hosts), held)
}

// hostReason is why a host that was in is not with an instance; "": nothing is known.
func hostReason(in *mesh.Instance, hosts map[string]api.Node) string {
	host := hosts[in.Node]
	since := host.Since.UTC().Format("2006-01-02 15:04 MST")
	again := "kerege token create -node " + in.Node + ", then kerege join there"
	switch host.State {
	case nodeEvicted:
		return "its host " + in.Node + " was evicted at " + since + "; back with " + again
	case nodeBanned:
		return "its host " + in.Node + " was banned at " + since + " (" + host.Reason + "); back with kerege node unban " + in.Node + ", " + again
	case nodeLeft:
		return "its host " + in.Node + " left at " + since + "; back with " + again + ", and kerege capture apply"
	}
	return host.Outside[memberName(string(in.Service), in.Workload)]
}

func byName(hosts []api.Node) map[string]api.Node {
	out := make(map[string]api.Node, len(hosts))
	for _, h := range hosts {
		out[h.Name] = h
	}
	return out
}

// heldOf is every instance that callers do not get.
func heldOf(s *mesh.Snapshot, hosts []api.Node) []api.Held {
	all, named := []api.Held{}, byName(hosts)
	for _, name := range s.Services() {
		svc := s.Service(name)
		for _, in := range s.Instances(name) {
			if in.In {
				continue
			}
			if reason := heldBecause(svc, in, named); reason != "" {
				all = append(all, api.Held{Service: string(name), Instance: in.ID, Address: in.Addr.String(), Node: in.Node, Reason: reason})
			}
		}
	}
	return all
}

// callersOf is who an allow block names for a destination.
func callersOf(s *mesh.Snapshot, dest mesh.ServiceName) []string {
	all := []string{}
	for _, in := range s.Intentions(dest) {
		for _, rule := range in.Rules {
			if rule.Action == mesh.ActionAllow {
				all = append(all, rule.From...)
			}
		}
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// intentionsOf is GET /v1/intentions.
func intentionsOf(s *mesh.Snapshot) []api.Intention {
	all := []api.Intention{}
	labels := slices.Clone(s.Patterns())
	for _, name := range s.Services() {
		labels = append(labels, string(name))
	}
	slices.Sort(labels)
	for _, label := range slices.Compact(labels) {
		for _, in := range s.Labelled(label) {
			for _, rule := range in.Rules {
				all = append(all, api.Intention{
					Destination: label, Action: string(rule.Action), Name: rule.Name,
					From: rule.From, Except: rule.Except, What: whatOf(rule), Where: where(rule.Pos),
				})
			}
		}
	}
	return all
}

// whatOf says a permission's conditions in words.
func whatOf(p mesh.Permission) string {
	var parts []string
	if len(p.Methods) > 0 {
		parts = append(parts, strings.Join(p.Methods, " "))
	}
	switch {
	case p.Path != "":
		parts = append(parts, p.Path)
	case p.PathPrefix != "":
		parts = append(parts, p.PathPrefix+" and below")
	case p.PathRegex != "":
		parts = append(parts, "paths like "+p.PathRegex)
	}
	if len(p.Ports) > 0 {
		parts = append(parts, "ports "+strings.Join(p.Ports, " "))
	}
	if len(parts) == 0 {
		return "everything"
	}
	return strings.Join(parts, ", ")
}

func conflictsOf(s *mesh.Snapshot) []api.Conflict {
	all := []api.Conflict{}
	for _, c := range s.Conflicts() {
		k := api.Conflict{What: c.What, Where: []string{}}
		for _, p := range c.Where {
			if w := where(p); w != "" {
				k.Where = append(k.Where, w)
			}
		}
		all = append(all, k)
	}
	return all
}

func where(p mesh.Pos) string {
	if p.File == "" {
		return ""
	}
	return p.String()
}

func protocolName(p mesh.Protocol) string {
	if p == mesh.ProtocolUnknown {
		return "detected"
	}
	return string(p)
}

func healthName(h mesh.Health) string {
	switch h {
	case mesh.Healthy:
		return "healthy"
	case mesh.Warning:
		return "warning"
	case mesh.Draining:
		return "draining"
	}
	return "unhealthy"
}
