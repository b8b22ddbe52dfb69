package plan

import (
	"slices"
	"strconv"

	"github.com/kerege/kerege/mesh"
)

// router resolves one service's route for one caller ("" is everybody whom the
// route does not name).
type router struct {
	v        *View
	units    units
	svc      *mesh.Service
	route    *mesh.Route // nil: none
	caller   mesh.ServiceName
	problems []Problem
}

func (r *router) problem(pos mesh.Pos, what string) {
	r.problems = append(r.problems, Problem{Where: r.cause(), Pos: pos, What: what})
}

func (r *router) cause() mesh.Key {
	kind := mesh.KindRoute
	if r.route == nil {
		kind = mesh.KindService
	}
	return mesh.Key{Kind: kind, Name: string(r.svc.Name)}
}

func (r *router) rules() []mesh.Rule {
	if r.route == nil {
		return nil
	}
	return r.route.Rules
}

// http is the HTTP behaviour of one port.
func (r *router) http(port mesh.Port) *Routes {
	out := &Routes{Name: clusterName(r.svc.Name, "", port.Number), Service: r.svc.Name, Cause: r.cause()}
	for i := range r.rules() {
		rule := &r.route.Rules[i]
		if rule.Port != "" && rule.Port != port.Name {
			continue
		}
		matches, ok := r.matches(rule)
		if !ok {
			continue
		}
		out.Rules = append(out.Rules, r.resolve(rule, matches, port))
		if len(matches) == 0 {
			return out
		}
	}
	out.Rules = append(out.Rules, r.resolve(&mesh.Rule{}, nil, port))
	return out
}

// matches resolves `from` away; false means that the rule is not for this caller.
func (r *router) matches(rule *mesh.Rule) ([]mesh.Match, bool) {
	var out []mesh.Match
	for _, m := range rule.Matches {
		if len(m.From) > 0 && !slices.Contains(m.From, string(r.caller)) {
			continue
		}
		m.From = nil
		if onlyCaller(&m) {
			return nil, true // whatever this caller asks for
		}
		out = append(out, m)
	}
	return out, len(out) > 0 || len(rule.Matches) == 0
}

// onlyCaller says whether a match, `from` apart, has no condition.
func onlyCaller(m *mesh.Match) bool {
	return m.Path == "" && m.PathPrefix == "" && m.PathRegex == "" && m.GRPCService == "" &&
		len(m.Methods)+len(m.Headers)+len(m.Query) == 0
}

func (r *router) resolve(rule *mesh.Rule, matches []mesh.Match, port mesh.Port) RouteRule {
	out := RouteRule{
		Name: rule.Name, Matches: matches, Timeout: *r.svc.Timeout, Idle: *r.svc.IdleTimeout,
		Rewrite: rule.Rewrite, RequestHeaders: rule.RequestHeaders, ResponseHeaders: rule.ResponseHeaders, Pos: rule.Pos,
	}
	if rule.Timeout != nil {
		out.Timeout = *rule.Timeout
	}
	if rule.IdleTimeout != nil {
		out.Idle = *rule.IdleTimeout
	}
	retry := r.svc.Retry
	if rule.Retry != nil {
		retry = rule.Retry.Filled()
	}
	out.Retry = Retry{
		Times: uint32(max(*retry.Times, 0)), On: retry.On, Safe: retry.Safe, AnyMethod: retry.AnyMethod,
		PerTry: *retry.PerTry, Backoff: *retry.Backoff, BackoffMax: *retry.BackoffMax,
	}
	if port.Protocol == mesh.ProtocolGRPC && retry.Safe && !retry.AnyMethod {
		// Every call of gRPC is a POST: nothing there is for safe methods.
		out.Retry.On = slices.DeleteFunc(slices.Clone(retry.On), func(c string) bool { return c == "reset" })
	}
	switch {
	case rule.Redirect != nil:
		out.Redirect = rule.Redirect
	case rule.Respond != nil:
		out.Respond = rule.Respond
	default:
		out.To = r.targets(rule, port)
		if out.To == nil {
			out.Respond = &mesh.Respond{Status: 503, Body: "kerege: no target of the rule " + strconv.Quote(rule.Name) +
				" of the route " + strconv.Quote(string(r.svc.Name)) + " exists\n", Pos: rule.Pos}
		}
	}
	return out
}

// tcp is where connections to a port that is not HTTP go: to the targets of the
// first rule that has any and does not look at HTTP, else to all of the service.
func (r *router) tcp(port mesh.Port) []Weighted {
	for i := range r.rules() {
		rule := &r.route.Rules[i]
		if !r.splits(rule, port) {
			continue
		}
		if to := r.targets(rule, port); to != nil {
			return to
		}
	}
	return []Weighted{{clusterName(r.svc.Name, "", port.Number), 10000}}
}

// splits says whether a rule says where the connections to a port go.
func (r *router) splits(rule *mesh.Rule, port mesh.Port) bool {
	if rule.Port != "" && rule.Port != port.Name || rule.Redirect != nil || rule.Respond != nil {
		return false
	}
	matches, ok := r.matches(rule)
	return ok && len(matches) == 0 && len(rule.To) > 0
}

// check reports what is wrong with the route as a whole.
func (r *router) check() {
	for _, port := range r.svc.Ports {
		all := false
		for i := range r.rules() {
			rule := &r.route.Rules[i]
			if rule.Port != "" && rule.Port != port.Name {
				continue
			}
			if all {
				r.problem(rule.Pos, "The rule "+strconv.Quote(rule.Name)+" of the route "+string(r.svc.Name)+
					" is never reached on port "+port.String()+": a rule before it matches everything.")
			}
			all = all || len(rule.Matches) == 0 || slices.ContainsFunc(rule.Matches, func(m mesh.Match) bool { return len(m.From) == 0 && onlyCaller(&m) })
			if !isHTTP(port.Protocol) && port.Protocol != mesh.ProtocolUnknown && looksAtHTTP(rule) {
				r.problem(rule.Pos, "The rule "+strconv.Quote(rule.Name)+" of the route "+string(r.svc.Name)+
					" looks at HTTP, but port "+port.String()+" speaks "+string(port.Protocol)+"; it has no effect there.")
			}
		}
	}
	for i := range r.rules() {
		rule := &r.route.Rules[i]
		if rule.Port != "" && !slices.ContainsFunc(r.svc.Ports, func(p mesh.Port) bool { return p.Name == rule.Port }) {
			r.problem(rule.Pos, "The rule "+strconv.Quote(rule.Name)+" of the route "+string(r.svc.Name)+
				" is for port "+strconv.Quote(rule.Port)+", which the service does not have.")
		}
	}
}

func looksAtHTTP(rule *mesh.Rule) bool {
	return rule.Redirect != nil || rule.Respond != nil || rule.Rewrite != nil || rule.RequestHeaders != nil || rule.ResponseHeaders != nil ||
		slices.ContainsFunc(rule.Matches, func(m mesh.Match) bool { return !onlyCaller(&m) })
}

func isHTTP(p mesh.Protocol) bool {
	return p == mesh.ProtocolHTTP || p == mesh.ProtocolHTTP2 || p == mesh.ProtocolGRPC
}
