package xds

import (
	"regexp"
	"slices"
	"strings"

	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/kerege/kerege/mesh"
)

// routeMatch says one match block. From is resolved before a plan is made.
func routeMatch(m mesh.Match) *routev3.RouteMatch {
	out := &routev3.RouteMatch{}
	switch base := strings.TrimRight(m.PathPrefix, "/"); {
	case m.Path != "":
		out.PathSpecifier = &routev3.RouteMatch_Path{Path: m.Path}
	case base != "":
		out.PathSpecifier = &routev3.RouteMatch_PathSeparatedPrefix{PathSeparatedPrefix: base}
	case m.PathRegex != "":
		out.PathSpecifier = &routev3.RouteMatch_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: m.PathRegex}}
	case m.GRPCService != "":
		out.PathSpecifier = &routev3.RouteMatch_Prefix{Prefix: "/" + m.GRPCService + "/"}
	default:
		out.PathSpecifier = &routev3.RouteMatch_Prefix{Prefix: "/"}
	}
	if m.GRPCService != "" {
		out.Grpc = &routev3.RouteMatch_GrpcRouteMatchOptions{}
	}
	if len(m.Methods) > 0 {
		out.Headers = append(out.Headers, methods(m.Methods))
	}
	for _, v := range m.Headers {
		out.Headers = append(out.Headers, headerMatch(v))
	}
	for _, v := range m.Query {
		out.QueryParameters = append(out.QueryParameters, queryMatch(v))
	}
	return out
}

func methods(list []string) *routev3.HeaderMatcher {
	m := exact(list[0])
	if len(list) > 1 {
		m = regex(alternatives(slices.Sorted(slices.Values(list))))
	}
	return &routev3.HeaderMatcher{Name: ":method", HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: m}}
}

// headerMatch says one condition on a header. An inverted one also holds when
// the header is not there at all.
func headerMatch(v mesh.ValueMatch) *routev3.HeaderMatcher {
	out := &routev3.HeaderMatcher{Name: strings.ToLower(v.Name), InvertMatch: v.Invert}
	if out.Name == "host" {
		out.Name = ":authority"
	}
	if v.Present != nil {
		out.HeaderMatchSpecifier = &routev3.HeaderMatcher_PresentMatch{PresentMatch: *v.Present}
		return out
	}
	out.TreatMissingHeaderAsEmpty = v.Invert
	out.HeaderMatchSpecifier = &routev3.HeaderMatcher_StringMatch{StringMatch: text(v)}
	return out
}

func queryMatch(v mesh.ValueMatch) *routev3.QueryParameterMatcher {
	out := &routev3.QueryParameterMatcher{Name: v.Name}
	if v.Present != nil {
		out.QueryParameterMatchSpecifier = &routev3.QueryParameterMatcher_PresentMatch{PresentMatch: *v.Present != v.Invert}
		return out
	}
	out.QueryParameterMatchSpecifier = &routev3.QueryParameterMatcher_StringMatch{StringMatch: text(v)}
	return out
}

func text(v mesh.ValueMatch) *matcherv3.StringMatcher {
	var out *matcherv3.StringMatcher
	switch {
	case v.Exact != nil:
		out = exact(*v.Exact)
	case v.Prefix != nil && *v.Prefix != "":
		out = prefix(*v.Prefix)
	case v.Suffix != nil && *v.Suffix != "":
		out = &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Suffix{Suffix: *v.Suffix}}
	case v.Contains != nil && *v.Contains != "":
		out = &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Contains{Contains: *v.Contains}}
	case v.Regex != nil && *v.Regex != "":
		return regex(caseless(*v.Regex, v.IgnoreCase))
	case len(v.In) == 1:
		out = exact(v.In[0])
	case len(v.In) > 1:
		return regex(caseless(alternatives(v.In), v.IgnoreCase))
	default:
		return regex(".*")
	}
	out.IgnoreCase = v.IgnoreCase
	return out
}

func alternatives(list []string) string {
	quoted := make([]string, len(list))
	for i, s := range list {
		quoted[i] = regexp.QuoteMeta(s)
	}
	return strings.Join(quoted, "|")
}

func caseless(re string, ignoreCase bool) string {
	if ignoreCase {
		return "(?i)(?:" + re + ")"
	}
	return re
}
