package plan

import (
	"fmt"
	"slices"
	"strconv"

	"github.com/kerege/kerege/mesh"
)

func percent(weight uint32) string {
	return strconv.FormatFloat(float64(weight)/100, 'f', -1, 64)
}

// ruleOf is a rule of a service's route as it is written; nil: there is none.
func (v *View) ruleOf(service mesh.ServiceName, name string) *mesh.Rule {
	r := v.Route(service)
	if r == nil || name == "" {
		return nil
	}
	if i := slices.IndexFunc(r.Rules, func(rule mesh.Rule) bool { return rule.Name == name }); i >= 0 {
		return &r.Rules[i]
	}
	return nil
}

// tcpRule is the rule that says where connections to a port that is not HTTP go;
// nil: none does.
func (v *View) tcpRule(c Call, port mesh.Port) *mesh.Rule {
	r := v.Route(c.To)
	if r == nil {
		return nil
	}
	router := router{v: v, route: r, caller: c.From}
	for i := range r.Rules {
		if router.splits(&r.Rules[i], port) {
			return &r.Rules[i]
		}
	}
	return nil
}

// givenAway tells of the targets that a rule names and no call reaches: their share
// goes to the others while they have no endpoint.
func (e *Explanation) givenAway(rule *mesh.Rule, up *UpstreamPort) {
	if rule == nil {
		return
	}
	takes := func(t mesh.Target) bool {
		i := slices.IndexFunc(up.Clusters, func(c *Cluster) bool { return c.Service == t.Service && c.Subset == t.Subset })
		return i >= 0 && len(up.Clusters[i].Endpoints.Groups) > 0 || t.IfEmpty == "fail"
	}
	if !slices.ContainsFunc(rule.To, takes) {
		return // each keeps its share, and has nobody to answer
	}
	for i, weight := range shares(rule.To) {
		t := rule.To[i]
		if weight == 0 || takes(t) {
			continue
		}
		pos := t.Pos
		if pos == (mesh.Pos{}) {
			pos = rule.Pos
		}
		e.add("split", fmt.Sprintf("%s has no endpoint: its %s %% go to the others (if_empty = \"rest\").", targetName(t), percent(weight)), pos)
	}
}

// spokenTo is a call without what means nothing to the port that it is for: there
// is no method, path or header on a connection, and connects is then true.
func spokenTo(v *View, c Call) (_ Call, connects bool) {
	svc := v.Service(c.To)
	if svc == nil {
		return c, false
	}
	i := portAsked(svc, c)
	if i >= 0 && !isHTTP(svc.Ports[i].Protocol) && svc.Ports[i].Protocol != mesh.ProtocolUnknown {
		c.Method, c.Path, c.Headers, connects = "", "", nil, true
	}
	return c, connects
}

// portAsked is the port that a call is for; -1: the service has no such port.
func portAsked(svc *mesh.Service, c Call) int {
	return slices.IndexFunc(svc.Ports, func(p mesh.Port) bool {
		return c.Port == "" || p.Name == c.Port || strconv.Itoa(int(p.Number)) == c.Port
	})
}

// catchAll is what becomes of a call to a service that the caller's proxy is not
// told of.
func catchAll(port mesh.Port, c Call) string {
	if speaksHTTP(port, c) {
		return "call meets the catch-all, which answers 403"
	}
	return "connection meets the catch-all, which does not let it through"
}
