package plan

import (
	"slices"
	"strconv"

	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/policy"
)

// stranger is a caller that no name and no prefix can name: only "*" does.
const stranger = "\x00"

// compilePolicies makes the policy of each port of a service.
func compilePolicies(v *View, name mesh.ServiceName) ([]*Policy, []Problem) {
	svc := v.Service(name)
	if svc == nil {
		return nil, nil
	}
	var list []*Policy
	var problems []Problem
	intentions := v.Intentions(name)
	for _, port := range svc.Ports {
		p := &Policy{
			Name:        string(name) + ":" + strconv.Itoa(int(port.Number)),
			TrustDomain: v.Config().TrustDomain, Bundle: v.Bundle(), Default: svc.DefaultIntention,
			Away:  v.Away(),
			Cause: mesh.Key{Kind: mesh.KindIntention, Name: string(name)},
		}
		rules := policy.RulesOf(intentions, svc.DefaultIntention, name, port.Name)
		rules.Away, rules.Strict = p.Away, strict(port)
		p.Open = rules.Text()
		p.permissions(intentions, port)
		p.callers(v, svc, port, intentions)
		list = append(list, p)
	}
	for _, in := range intentions {
		problems = append(problems, checkIntention(svc, in)...)
	}
	return list, problems
}

// strict says whether a port takes nobody without a certificate.
func strict(p mesh.Port) bool { return p.MTLS != mesh.MTLSPermissive && p.MTLS != mesh.MTLSDisabled }

// permissions takes over what holds on the port.
func (p *Policy) permissions(intentions []*mesh.Intention, port mesh.Port) {
	l4 := port.Protocol == mesh.ProtocolTCP || port.Protocol == mesh.ProtocolTLS
	for _, in := range intentions {
		for _, r := range in.Rules {
			if len(r.Ports) > 0 && !slices.Contains(r.Ports, port.Name) {
				continue
			}
			r.Ports = nil
			if l4 && policy.HasHTTP(&r) {
				if r.Action == mesh.ActionAllow {
					continue
				}
				r.Methods, r.Path, r.PathPrefix, r.PathRegex = nil, "", "", ""
			}
			if r.Action == mesh.ActionAllow {
				p.Allow = append(p.Allow, r)
			} else {
				p.Deny = append(p.Deny, r)
			}
		}
	}
}

// callers works out who may open a connection, by asking policy.Decide about
// everybody whom the intentions name.
func (p *Policy) callers(v *View, svc *mesh.Service, port mesh.Port, intentions []*mesh.Intention) {
	allowed := func(name string) bool {
		return policy.Decide(intentions, svc.DefaultIntention, policy.Request{
			From: mesh.ServiceIdentity(p.TrustDomain, mesh.ServiceName(name)), To: svc.Name, Port: port.Name,
		}).Allowed
	}
	var names, patterns []string
	for _, in := range intentions {
		for _, r := range in.Rules {
			for _, token := range slices.Concat(r.From, r.Except) {
				switch {
				case token == "*":
				case mesh.IsPattern(token):
					patterns = append(patterns, token)
				default:
					names = append(names, token)
				}
			}
		}
	}
	p.Plaintext = policy.Decide(intentions, svc.DefaultIntention, policy.Request{To: svc.Name, Port: port.Name}).Allowed
	all := allowed(stranger)
	p.AnyCaller = all
	for _, pattern := range patterns {
		prefix := pattern[:len(pattern)-1] + stranger
		if allowed(prefix) != all {
			// A handshake cannot tell names by their beginning: list them all.
			p.AnyCaller = false
		}
		for _, s := range v.Services() {
			if mesh.MatchName(pattern, s) {
				names = append(names, string(s))
			}
		}
	}
	if all && !p.AnyCaller {
		for _, s := range v.Services() {
			names = append(names, string(s))
		}
	}
	slices.Sort(names)
	for _, n := range slices.Compact(names) {
		id := mesh.ServiceIdentity(p.TrustDomain, mesh.ServiceName(n))
		switch ok := allowed(n); {
		case ok && !p.AnyCaller:
			p.Callers = append(p.Callers, id)
		case !ok && p.AnyCaller:
			p.Deniers = append(p.Deniers, id)
		}
	}
}

// checkIntention reports what an intention says in vain, or too loudly, for a service.
func checkIntention(svc *mesh.Service, in *mesh.Intention) []Problem {
	if in.Label != string(svc.Name) {
		return nil
	}
	where := mesh.Key{Kind: mesh.KindIntention, Name: in.Label}
	var problems []Problem
	for i := range in.Rules {
		r := &in.Rules[i]
		for _, name := range r.Ports {
			if !slices.ContainsFunc(svc.Ports, func(p mesh.Port) bool { return p.Name == name }) {
				problems = append(problems, Problem{where, r.Pos, "The intention " + in.Label + " speaks of port " +
					strconv.Quote(name) + ", which the service does not have; that block never matches there."})
			}
		}
		for _, p := range svc.Ports {
			l4 := p.Protocol == mesh.ProtocolTCP || p.Protocol == mesh.ProtocolTLS
			if !l4 || !policy.HasHTTP(r) || len(r.Ports) > 0 && !slices.Contains(r.Ports, p.Name) {
				continue
			}
			what := "admits nobody there"
			if r.Action != mesh.ActionAllow {
				what = "refuses its callers altogether there"
			}
			problems = append(problems, Problem{where, r.Pos, "A block of the intention " + in.Label +
				" has conditions on HTTP, but port " + p.String() + " speaks " + string(p.Protocol) + "; it " + what + "."})
		}
	}
	return problems
}
