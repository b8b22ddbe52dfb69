package xds

import (
	"fmt"
	"regexp"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	rbacv3 "github.com/envoyproxy/go-control-plane/envoy/config/rbac/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	rbacfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/plan"
)

func rbacName(p *plan.Policy) string { return "rbac:" + p.Name }

// extension is one port's rules as a resource of their own, which Envoy swaps
// under open connections without touching a listener.
func (w *writer) extension(p *plan.Policy) *corev3.TypedExtensionConfig {
	return &corev3.TypedExtensionConfig{Name: rbacName(p), TypedConfig: w.any(rbac(p))}
}

// ruleAway is what logs call the refusal of a node that was sent away.
const ruleAway = "node[away]"

// denyAll is what a port answers until its rules have come.
func denyAll() *rbacfilterv3.RBAC {
	return &rbacfilterv3.RBAC{Rules: &rbacv3.RBAC{Action: rbacv3.RBAC_ALLOW}}
}

// rbac says a policy so that Envoy decides as policy.Decide does: a deny that
// matches wins, then an allow, then the default. One filter has one action, so
// under a default of deny the denials become exceptions from every allow; what
// they are called is then told by the shadow rules, which decide nothing.
func rbac(p *plan.Policy) *rbacfilterv3.RBAC {
	deny, allow := principals(p, p.Deny), principals(p, p.Allow)
	denials := &rbacv3.RBAC{Action: rbacv3.RBAC_DENY, Policies: named("deny", p.Deny, deny)}
	var gone *rbacv3.RBAC
	if len(p.Away) > 0 {
		who := sentAway(p.Away)
		deny = append(deny, who)
		denials.Policies[ruleAway] = whoever(who)
		gone = &rbacv3.RBAC{Action: rbacv3.RBAC_DENY, Policies: map[string]*rbacv3.Policy{ruleAway: whoever(who)}}
	}
	switch {
	case p.Default == mesh.ActionAllow:
		return &rbacfilterv3.RBAC{Rules: denials, ShadowRules: gone}
	case len(deny) == 0:
		return &rbacfilterv3.RBAC{Rules: &rbacv3.RBAC{Action: rbacv3.RBAC_ALLOW, Policies: named("allow", p.Allow, allow)}}
	case len(allow) == 0:
		return &rbacfilterv3.RBAC{Rules: &rbacv3.RBAC{Action: rbacv3.RBAC_ALLOW}, ShadowRules: denials}
	}
	one := allOf(anyOf(allow), not(anyOf(deny)))
	return &rbacfilterv3.RBAC{
		Rules:       &rbacv3.RBAC{Action: rbacv3.RBAC_ALLOW, Policies: map[string]*rbacv3.Policy{"allow": whoever(one)}},
		ShadowRules: denials,
	}
}

// named gives each rule the name that logs show: its own, or its place.
func named(kind string, rules []mesh.Permission, who []*rbacv3.Principal) map[string]*rbacv3.Policy {
	out := make(map[string]*rbacv3.Policy, len(who))
	for i, pr := range who {
		name := rules[i].Name
		if _, taken := out[name]; name == "" || taken {
			name = fmt.Sprintf("%s[%d]", kind, i)
		}
		out[name] = whoever(pr)
	}
	return out
}

func whoever(p *rbacv3.Principal) *rbacv3.Policy {
	return &rbacv3.Policy{
		Permissions: []*rbacv3.Permission{{Rule: &rbacv3.Permission_Any{Any: true}}},
		Principals:  []*rbacv3.Principal{p},
	}
}

func principals(p *plan.Policy, rules []mesh.Permission) []*rbacv3.Principal {
	out := make([]*rbacv3.Principal, len(rules))
	for i := range rules {
		out[i] = permission(p.TrustDomain, &rules[i])
	}
	return out
}

// permission is one block, caller and request together: all of it must hold.
func permission(trustDomain string, r *mesh.Permission) *rbacv3.Principal {
	all := []*rbacv3.Principal{callers(trustDomain, r.From)}
	if len(r.Except) > 0 {
		all = append(all, not(callers(trustDomain, r.Except)))
	}
	if len(r.Methods) > 0 {
		var methods []*rbacv3.Principal
		for _, m := range r.Methods {
			methods = append(methods, &rbacv3.Principal{Identifier: &rbacv3.Principal_Header{Header: &routev3.HeaderMatcher{
				Name: ":method", HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: exact(m)},
			}}})
		}
		all = append(all, anyOf(methods))
	}
	if r.Path != "" {
		all = append(all, path(exact(r.Path)))
	}
	if base := strings.TrimRight(r.PathPrefix, "/"); base != "" {
		all = append(all, anyOf([]*rbacv3.Principal{path(exact(base)), path(prefix(base + "/"))}))
	} else if r.PathPrefix != "" {
		all = append(all, path(prefix("/")))
	}
	if r.PathRegex != "" {
		all = append(all, pathRegex(r)...)
	}
	return allOf(all...)
}

// pathRegex judges against the caller where the expression cannot be used: a
// denial then stands without it, and an allow allows nothing.
func pathRegex(r *mesh.Permission) []*rbacv3.Principal {
	if _, err := regexp.Compile(`\A(?:` + r.PathRegex + `)\z`); err != nil {
		if r.Action == mesh.ActionAllow {
			return []*rbacv3.Principal{not(anyone())}
		}
		return nil
	}
	return []*rbacv3.Principal{path(regex(r.PathRegex))}
}

// callers matches the names of a list. "*" is everyone, also who shows no certificate.
func callers(trustDomain string, names []string) *rbacv3.Principal {
	var out []*rbacv3.Principal
	for _, n := range names {
		pattern, open := strings.CutSuffix(n, "*")
		switch {
		case n == "*":
			return anyone()
		case open:
			out = append(out, authenticated(prefix(servicePrefix(trustDomain)+pattern)))
		default:
			out = append(out, authenticated(exact(servicePrefix(trustDomain)+n)))
		}
	}
	if len(out) == 0 {
		return not(anyone())
	}
	return anyOf(out)
}

func authenticated(m *matcherv3.StringMatcher) *rbacv3.Principal {
	return &rbacv3.Principal{Identifier: &rbacv3.Principal_Authenticated_{Authenticated: &rbacv3.Principal_Authenticated{PrincipalName: m}}}
}

// sentAway matches a caller by the marks in its certificate. Envoy looks for a
// principal in the URIs first, then in the DNS names, and no mark is a URI.
func sentAway(marks []string) *rbacv3.Principal {
	var out []*rbacv3.Principal
	for _, m := range marks {
		out = append(out, authenticated(exact(m)))
	}
	return anyOf(out)
}

// path matches the path without its query.
func path(m *matcherv3.StringMatcher) *rbacv3.Principal {
	return &rbacv3.Principal{Identifier: &rbacv3.Principal_UrlPath{UrlPath: &matcherv3.PathMatcher{
		Rule: &matcherv3.PathMatcher_Path{Path: m},
	}}}
}

func anyone() *rbacv3.Principal {
	return &rbacv3.Principal{Identifier: &rbacv3.Principal_Any{Any: true}}
}

func not(p *rbacv3.Principal) *rbacv3.Principal {
	return &rbacv3.Principal{Identifier: &rbacv3.Principal_NotId{NotId: p}}
}

func anyOf(ps []*rbacv3.Principal) *rbacv3.Principal {
	if len(ps) == 1 {
		return ps[0]
	}
	return &rbacv3.Principal{Identifier: &rbacv3.Principal_OrIds{OrIds: &rbacv3.Principal_Set{Ids: ps}}}
}

func allOf(ps ...*rbacv3.Principal) *rbacv3.Principal {
	if len(ps) == 1 {
		return ps[0]
	}
	return &rbacv3.Principal{Identifier: &rbacv3.Principal_AndIds{AndIds: &rbacv3.Principal_Set{Ids: ps}}}
}
