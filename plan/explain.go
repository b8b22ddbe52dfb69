package plan

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/policy"
)

// Explanation is what would become of one call, step by step.
type Explanation struct {
	Steps   []Step
	Allowed bool   // it reaches an application that may answer it
	Verdict string // allowed, refused, or why it reaches none although nobody refuses it
	Fix     string // HCL that would let it through, where an intention is missing
}

// Step is one hop of a call.
type Step struct {
	Name string // request, name, listener, route, split, endpoints, identity, decision; in this order
	What string // one sentence
	Pos  mesh.Pos
	List []string
}

func (e *Explanation) add(name, what string, pos mesh.Pos, list ...string) {
	e.Steps = append(e.Steps, Step{name, what, pos, list})
}

// Explain follows one call through what the caller's proxy and the destination's
// do, by the plans that they are given.
func Explain(v *View, c Call) Explanation {
	e := explain(v, c)
	switch {
	case e.Allowed:
		e.Verdict = "allowed"
	case e.Verdict == "":
		e.Verdict = "refused"
	}
	return e
}

func explain(v *View, c Call) Explanation {
	var e Explanation
	c, connects := spokenTo(v, c)
	if v.Service(c.From) == nil {
		e.add("request", asked(c, connects)+" Nobody knows a service "+strconv.Quote(string(c.From))+".", mesh.Pos{})
	} else {
		e.add("request", asked(c, connects), mesh.Pos{})
	}
	svc := v.Service(c.To)
	if svc == nil {
		e.add("name", strconv.Quote(string(c.To))+" is no service of the mesh: it has no block, no instance and no intention.", mesh.Pos{})
		return e
	}
	proxy, _ := Compile(v, Node{ID: mesh.ProxyID{Service: c.From, Node: "explain"}})
	i := portAsked(svc, c)
	if i < 0 {
		e.add("name", fmt.Sprintf("%s has no port %q.", c.To, c.Port), svc.Pos, portList(svc)...)
		return e
	}
	port := svc.Ports[i]
	up := proxy.upstream(c.To, port.Number)
	if up == nil {
		e.add("listener", fmt.Sprintf("The proxy of %s is not told of %s, since no intention names it: the %s.", c.From, c.To, catchAll(port, c)), mesh.Pos{})
		d := policy.Decide(v.Intentions(c.To), svc.DefaultIntention, request(v, c, port, c.To, c.Path))
		e.Fix = allowing(v, c, svc, port, c.Path)
		e.add("decision", d.Reason+".", d.Pos)
		return e
	}
	e.add("name", fmt.Sprintf("%s.mesh has the virtual address %s, port %d.", c.To, addresses(up), port.Number), svc.Pos)
	e.add("listener", fmt.Sprintf("The proxy of %s listens for upstream/%s:%d, protocol %s.", c.From, c.To, port.Number, spoken(port.Protocol)), port.Pos)
	e.direct(up)
	e.follow(v, c, svc, port, up)
	return e
}

// direct tells of the instances that may be dialed at their own addresses.
func (e *Explanation) direct(up *UpstreamPort) {
	var list []string
	for _, d := range up.Direct {
		how := "plaintext"
		switch {
		case d.In:
			how = "mTLS"
		case d.Held:
			how = "held: refused"
		}
		list = append(list, d.Addr.String()+", "+how)
	}
	if len(list) > 0 {
		e.add("listener", "A program that dials an instance's own address gets that instance: no route, split or retry, and the same decision.", mesh.Pos{}, list...)
	}
}

func (p *Proxy) upstream(name mesh.ServiceName, port uint16) *UpstreamPort {
	for _, up := range p.Outbound {
		for i := range up.Ports {
			if up.Service == name && up.Ports[i].Number == port {
				return &up.Ports[i]
			}
		}
	}
	return nil
}

// follow goes on from the listener.
func (e *Explanation) follow(v *View, c Call, svc *mesh.Service, port mesh.Port, up *UpstreamPort) {
	to, path := up.TCP, c.Path
	written := v.tcpRule(c, port)
	if speaksHTTP(port, c) {
		rule, m := pickRule(up.Route, c)
		where := rule.Pos
		if where == (mesh.Pos{}) {
			if r := v.Route(c.To); r != nil {
				where = r.Pos
			}
			e.add("route", fmt.Sprintf("No rule of a route %q speaks of the call: it goes to the service as it is.", c.To), where)
		} else {
			e.add("route", fmt.Sprintf("The rule %q of the route %q.", rule.Name, c.To), where)
		}
		switch {
		case rule.Redirect != nil:
			e.Verdict = "answered by the proxy of the caller"
			e.add("split", fmt.Sprintf("It is answered with a redirect, code %d, and goes to nobody.", rule.Redirect.Code), rule.Pos)
			return
		case rule.Respond != nil:
			e.Verdict = "answered by the proxy of the caller"
			e.add("split", fmt.Sprintf("It is answered %d by the caller's proxy and goes to nobody.", rule.Respond.Status), rule.Pos)
			return
		}
		to, path, written = rule.To, rewritten(rule.Rewrite, m, c), v.ruleOf(c.To, rule.Name)
		if rule.Rewrite != nil {
			e.add("route", fmt.Sprintf("The path becomes %s; that is what the destination judges.", path), rule.Pos)
		}
	}
	e.Allowed = true
	var clusters []*Cluster
	for _, w := range to {
		i := slices.IndexFunc(up.Clusters, func(c *Cluster) bool { return c.Name == w.Cluster })
		clusters = append(clusters, up.Clusters[i])
		e.add("split", fmt.Sprintf("%s takes %s %%.", w.Cluster, percent(w.Weight)), mesh.Pos{})
	}
	e.givenAway(written, up)
	for _, cl := range clusters {
		e.cluster(v, cl)
	}
	denied := false
	var dests []mesh.ServiceName
	for _, cl := range clusters {
		if !slices.Contains(dests, cl.Service) {
			dests = append(dests, cl.Service)
			denied = !e.decide(v, c, cl, path) || denied
		}
	}
	if empty := without(clusters); len(empty) > 0 && !denied {
		e.Verdict = "allowed, and answered with 503: no endpoint of " + strings.Join(empty, ", ")
	}
}

// without lists the clusters that have no endpoint.
func without(clusters []*Cluster) (names []string) {
	for _, cl := range clusters {
		if len(cl.Endpoints.Groups) == 0 {
			names = append(names, cl.Name)
		}
	}
	return names
}

// pickRule is the first rule that a call meets; the last one always is.
func pickRule(r *Routes, c Call) (*RouteRule, *mesh.Match) {
	for i := range r.Rules {
		if m, ok := match(r.Rules[i].Matches, c); ok {
			return &r.Rules[i], m
		}
	}
	return &RouteRule{}, &mesh.Match{}
}

func (e *Explanation) cluster(v *View, cl *Cluster) {
	var list []string
	n := 0
	for _, g := range cl.Endpoints.Groups {
		for _, ep := range g.Endpoints {
			how := "plaintext"
			if ep.In {
				how = "mTLS"
			}
			list = append(list, fmt.Sprintf("%s %s, weight %d, %s", ep.Addr, healthWord(ep.Health), ep.Weight, how))
			n++
		}
	}
	for _, h := range HeldOf(v.snap, cl.Service) {
		if inSubset(v.Service(cl.Service), cl.Subset, h.Instance) {
			list = append(list, fmt.Sprintf("%s held: %s", h.Instance.Addr, h.Reason))
		}
	}
	e.add("endpoints", fmt.Sprintf("%s has %s.", cl.Name, endpoints(n)), mesh.Pos{}, list...)
	if len(cl.Endpoints.Groups) == 0 {
		e.Allowed = false
	}
	if cl.MTLS == mesh.MTLSDisabled {
		e.add("identity", "mtls is disabled: plaintext, and nobody is identified.", mesh.Pos{})
		return
	}
	e.add("identity", "The instance must show "+cl.Identity.String()+".", mesh.Pos{})
}

// decide asks the intentions of a target, and gives their answer.
func (e *Explanation) decide(v *View, c Call, cl *Cluster, path string) bool {
	dest := v.Service(cl.Service)
	port := dest.Ports[slices.IndexFunc(dest.Ports, func(p mesh.Port) bool { return p.Number == cl.Port })]
	d := policy.Decide(v.Intentions(cl.Service), dest.DefaultIntention, request(v, c, port, cl.Service, path))
	what := string(cl.Service) + ": " + d.Reason + "."
	e.add("decision", what, d.Pos)
	if !d.Allowed {
		e.Allowed = false
		if d.Pos == (mesh.Pos{}) && e.Fix == "" {
			e.Fix = allowing(v, c, dest, port, path)
		}
	}
	return d.Allowed
}

func request(v *View, c Call, port mesh.Port, to mesh.ServiceName, path string) policy.Request {
	return policy.Request{
		From: mesh.ServiceIdentity(v.Config().TrustDomain, c.From), To: to, Port: port.Name,
		HTTP: speaksHTTP(port, c), Method: c.Method, Path: path,
	}
}

func speaksHTTP(port mesh.Port, c Call) bool {
	return isHTTP(port.Protocol) || port.Protocol == mesh.ProtocolUnknown && (c.Method != "" || c.Path != "")
}

func addresses(up *UpstreamPort) string {
	var list []string
	for _, a := range up.Virtual {
		list = append(list, a.String())
	}
	return strings.Join(list, " and ")
}

func portList(svc *mesh.Service) []string {
	var list []string
	for _, p := range svc.Ports {
		list = append(list, fmt.Sprintf("%s %d %s", p.Name, p.Number, spoken(p.Protocol)))
	}
	return list
}

func spoken(p mesh.Protocol) string {
	if p == mesh.ProtocolUnknown {
		return "detected for each connection"
	}
	return string(p)
}

func healthWord(h mesh.Health) string {
	return [...]string{"healthy", "warning", "unhealthy", "draining"}[min(int(h), 3)]
}

func endpoints(n int) string {
	if n == 1 {
		return "1 endpoint"
	}
	return fmt.Sprintf("%d endpoints", n)
}
