package xds

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/plan"
)

const (
	overwrite = corev3.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD
	appending = corev3.HeaderValueOption_APPEND_IF_EXISTS_OR_ADD
)

// hostLike is a host that may have a port: a name, an IPv4 address, or an IPv6
// address in brackets. Which signs a name may have, HTTP/1 has checked by then.
// Two Host headers are here one with a comma. A shorter expression is less
// memory for each service in each Envoy; this one takes ports up to 65999.
const hostLike = `(?:[^][,@:]+|\[[0-9A-Fa-f:.]+])(?::[0-5]?\d{0,4}|:6[0-5]?\d{0,3})?`

// badHost answers what has no host, two, or a name of a user before it. The
// destination's Envoy would reset such a call, which looks like an instance that
// fails: it would be tried again, and the instances would be left out.
func badHost() *routev3.Route {
	match := &routev3.RouteMatch{
		PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"},
		Headers: []*routev3.HeaderMatcher{{
			Name: ":authority", InvertMatch: true, TreatMissingHeaderAsEmpty: true,
			HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: regex(hostLike)},
		}},
	}
	return &routev3.Route{Name: "bad-host", Match: match, Action: directResponse(400, "kerege: the Host header is not one host\n")}
}

// routes says the HTTP behaviour of one port.
func (w *writer) routes(r *plan.Routes, clusters []*plan.Cluster) (*routev3.RouteConfiguration, error) {
	host := &routev3.VirtualHost{Name: r.Name, Domains: []string{"*"}, Routes: []*routev3.Route{badHost()}}
	hashes := hashPolicies(clusters)
	for i := range r.Rules {
		some, err := w.rule(&r.Rules[i], hashes)
		if err != nil {
			return nil, fmt.Errorf("route %s, rule %d: %w", r.Name, i, err)
		}
		host.Routes = append(host.Routes, some...)
	}
	return &routev3.RouteConfiguration{
		Name:                    r.Name,
		VirtualHosts:            []*routev3.VirtualHost{host},
		ValidateClusters:        no(),
		ResponseHeadersToRemove: []string{headerUnreached, headerUnanswered},
	}, nil
}

// rule becomes one route for each match block, and two where retries differ by
// method.
func (w *writer) rule(r *plan.RouteRule, hashes []*routev3.RouteAction_HashPolicy) ([]*routev3.Route, error) {
	matches := r.Matches
	if len(matches) == 0 {
		matches = []mesh.Match{{}}
	}
	some, theirs, others := w.retries(r.Retry)
	var out []*routev3.Route
	for _, m := range matches {
		rest, err := w.route(r, m, others, hashes)
		if err != nil {
			return nil, err
		}
		among := func(method string) bool { return slices.Contains(some, method) }
		if rest.GetRoute() == nil || len(some) == 0 || len(m.Methods) > 0 && !slices.ContainsFunc(m.Methods, among) {
			out = append(out, rest)
			continue
		}
		first, err := w.route(r, m, theirs, hashes)
		if err != nil {
			return nil, err
		}
		if len(m.Methods) > 0 && !slices.ContainsFunc(m.Methods, func(method string) bool { return !among(method) }) {
			out = append(out, first) // the match speaks of no other method
			continue
		}
		first.Match.Headers = append(first.Match.Headers, methods(some))
		out = append(out, first, rest)
	}
	return out, nil
}

func (w *writer) route(r *plan.RouteRule, m mesh.Match, retry *routev3.RetryPolicy, hashes []*routev3.RouteAction_HashPolicy) (*routev3.Route, error) {
	out := &routev3.Route{Name: r.Name, Match: routeMatch(m)}
	if h := r.RequestHeaders; h != nil {
		out.RequestHeadersToAdd, out.RequestHeadersToRemove = headerOps(h)
	}
	if h := r.ResponseHeaders; h != nil {
		out.ResponseHeadersToAdd, out.ResponseHeadersToRemove = headerOps(h)
	}
	switch {
	case r.Redirect != nil:
		out.Action = &routev3.Route_Redirect{Redirect: redirect(r.Redirect, m)}
	case r.Respond != nil:
		out.Action = directResponse(uint32(r.Respond.Status), r.Respond.Body)
	case len(r.To) == 0:
		return nil, fmt.Errorf("it goes nowhere")
	default:
		action := &routev3.RouteAction{
			Timeout:                     off(r.Timeout),
			IdleTimeout:                 off(r.Idle),
			RetryPolicy:                 retry,
			HashPolicy:                  hashes,
			ClusterNotFoundResponseCode: routev3.RouteAction_SERVICE_UNAVAILABLE,
		}
		if !targets(action, r.To) {
			out.Action = directResponse(503, "kerege: no instance serves this: every target of the rule has weight 0\n")
			return out, nil
		}
		if r.Rewrite != nil {
			rewrite(action, r.Rewrite, m)
		}
		out.Action = &routev3.Route_Route{Route: action}
	}
	return out, nil
}

// targets leaves out what has no weight; false: nothing is left.
func targets(action *routev3.RouteAction, to []plan.Weighted) bool {
	var list []*routev3.WeightedCluster_ClusterWeight
	for _, t := range to {
		if t.Weight > 0 {
			list = append(list, &routev3.WeightedCluster_ClusterWeight{Name: t.Cluster, Weight: u32(t.Weight)})
		}
	}
	switch len(list) {
	case 0:
		return false
	case 1:
		action.ClusterSpecifier = &routev3.RouteAction_Cluster{Cluster: list[0].Name}
	default:
		action.ClusterSpecifier = &routev3.RouteAction_WeightedClusters{WeightedClusters: &routev3.WeightedCluster{Clusters: list}}
	}
	return true
}

func directResponse(status uint32, body string) *routev3.Route_DirectResponse {
	out := &routev3.DirectResponseAction{Status: status}
	if body != "" {
		out.Body = &corev3.DataSource{Specifier: &corev3.DataSource_InlineString{InlineString: body}}
	}
	return &routev3.Route_DirectResponse{DirectResponse: out}
}

func headerOps(h *mesh.HeaderOps) (add []*corev3.HeaderValueOption, remove []string) {
	for _, k := range sortedKeys(h.Set) {
		add = append(add, literal(strings.ToLower(k), h.Set[k], overwrite))
	}
	for _, k := range sortedKeys(h.Add) {
		add = append(add, literal(strings.ToLower(k), h.Add[k], appending))
	}
	for _, k := range h.Remove {
		remove = append(remove, strings.ToLower(k))
	}
	return add, remove
}

// rewrite changes path and host. Envoy replaces text where we speak of whole
// segments, so that the prefix "/" on either side needs care with its slash.
func rewrite(a *routev3.RouteAction, r *mesh.Rewrite, m mesh.Match) {
	from, to := strings.TrimRight(m.PathPrefix, "/"), strings.TrimRight(r.PathPrefix, "/")
	switch {
	case r.Path != "":
		a.RegexRewrite = substitute("^.+$", quoteSubstitution(r.Path))
	case r.PathRegex != "":
		a.RegexRewrite = substitute(m.PathRegex, r.PathRegex)
	case r.PathPrefix == "":
	case from == "" && to == "":
	case from == "":
		a.RegexRewrite = substitute("^/", quoteSubstitution(to)+"/")
	case to == "":
		a.RegexRewrite = substitute("^"+regexp.QuoteMeta(from)+"/*", "/")
	default:
		a.PrefixRewrite = to
	}
	if r.Host != "" {
		a.HostRewriteSpecifier = &routev3.RouteAction_HostRewriteLiteral{HostRewriteLiteral: r.Host}
	}
}

func substitute(pattern, with string) *matcherv3.RegexMatchAndSubstitute {
	return &matcherv3.RegexMatchAndSubstitute{Pattern: &matcherv3.RegexMatcher{Regex: pattern}, Substitution: with}
}

func quoteSubstitution(s string) string { return strings.ReplaceAll(s, `\`, `\\`) }

func redirect(r *mesh.Redirect, m mesh.Match) *routev3.RedirectAction {
	out := &routev3.RedirectAction{HostRedirect: r.Host, PortRedirect: r.Port}
	if r.Scheme != "" {
		out.SchemeRewriteSpecifier = &routev3.RedirectAction_SchemeRedirect{SchemeRedirect: r.Scheme}
	}
	from, to := strings.TrimRight(m.PathPrefix, "/"), strings.TrimRight(r.PathPrefix, "/")
	switch {
	case r.Path != "":
		out.PathRewriteSpecifier = &routev3.RedirectAction_PathRedirect{PathRedirect: r.Path}
	case r.PathPrefix == "" || from == "" && to == "":
	case from == "":
		out.PathRewriteSpecifier = &routev3.RedirectAction_RegexRewrite{RegexRewrite: substitute("^/", quoteSubstitution(to)+"/")}
	case to == "":
		out.PathRewriteSpecifier = &routev3.RedirectAction_RegexRewrite{RegexRewrite: substitute("^"+regexp.QuoteMeta(from)+"/*", "/")}
	default:
		out.PathRewriteSpecifier = &routev3.RedirectAction_PrefixRewrite{PrefixRewrite: to}
	}
	out.ResponseCode = map[int]routev3.RedirectAction_RedirectResponseCode{
		301: routev3.RedirectAction_MOVED_PERMANENTLY,
		302: routev3.RedirectAction_FOUND,
		303: routev3.RedirectAction_SEE_OTHER,
		307: routev3.RedirectAction_TEMPORARY_REDIRECT,
		308: routev3.RedirectAction_PERMANENT_REDIRECT,
	}[r.Code]
	return out
}

// hashPolicies gathers what the clusters behind a port hash on.
func hashPolicies(clusters []*plan.Cluster) []*routev3.RouteAction_HashPolicy {
	var out []*routev3.RouteAction_HashPolicy
	seen := map[mesh.Hash]bool{}
	for _, c := range clusters {
		h := c.Balance.Hash
		if h == nil {
			continue
		}
		key := mesh.Hash{Header: h.Header, Cookie: h.Cookie, Query: h.Query, SourceIP: h.SourceIP}
		if seen[key] {
			continue
		}
		seen[key] = true
		out = append(out, hashPolicy(h))
	}
	return out
}

func hashPolicy(h *mesh.Hash) *routev3.RouteAction_HashPolicy {
	switch {
	case h.Header != "":
		return &routev3.RouteAction_HashPolicy{PolicySpecifier: &routev3.RouteAction_HashPolicy_Header_{
			Header: &routev3.RouteAction_HashPolicy_Header{HeaderName: strings.ToLower(h.Header)}}}
	case h.Cookie != "":
		return &routev3.RouteAction_HashPolicy{PolicySpecifier: &routev3.RouteAction_HashPolicy_Cookie_{
			Cookie: &routev3.RouteAction_HashPolicy_Cookie{Name: h.Cookie, Ttl: off(0)}}}
	case h.Query != "":
		return &routev3.RouteAction_HashPolicy{PolicySpecifier: &routev3.RouteAction_HashPolicy_QueryParameter_{
			QueryParameter: &routev3.RouteAction_HashPolicy_QueryParameter{Name: h.Query}}}
	}
	return &routev3.RouteAction_HashPolicy{PolicySpecifier: &routev3.RouteAction_HashPolicy_ConnectionProperties_{
		ConnectionProperties: &routev3.RouteAction_HashPolicy_ConnectionProperties{SourceIp: true}}}
}
