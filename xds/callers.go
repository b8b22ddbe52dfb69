package xds

import (
	"regexp"
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/kerege/kerege/plan"
)

// nobody is a name that no certificate has: an empty list of names would be no
// check at all.
const nobody = "spiffe://nobody.invalid/"

func callersName(p *plan.Policy) string { return "callers:" + p.Name }

// callersSecret says who may open a TCP connection to a port. They are judged in
// the TLS handshake, before the application knows of them: a server that speaks
// first must not speak to who is denied.
func callersSecret(p *plan.Policy) *tlsv3.Secret {
	return &tlsv3.Secret{Name: callersName(p), Type: &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{
		TrustedCa:                 &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: p.Bundle}},
		MatchTypedSubjectAltNames: uriSANs(admitted(p)),
	}}}
}

func openName(p *plan.Policy) string { return "open:" + p.Name }

// openSecret is for the node's agent, which judges by it what is open already. No
// Envoy asks for it. It is a secret because those are sent first: the agent then
// never knows less than its Envoy, and cuts nobody who was just let in.
func openSecret(p *plan.Policy) *tlsv3.Secret {
	return &tlsv3.Secret{Name: openName(p), Type: &tlsv3.Secret_GenericSecret{GenericSecret: &tlsv3.GenericSecret{
		Secret: &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: p.Open}},
	}}}
}

func admitted(p *plan.Policy) []*matcherv3.StringMatcher {
	var out []*matcherv3.StringMatcher
	switch {
	case p.AnyCaller:
		var denied []string
		for _, id := range p.Deniers {
			denied = append(denied, id.String())
		}
		out = allBut(servicePrefix(p.TrustDomain), denied)
	default:
		for _, id := range p.Callers {
			out = append(out, exact(id.String()))
		}
	}
	if len(out) == 0 {
		return []*matcherv3.StringMatcher{exact(nobody)}
	}
	return out
}

// allBut matches every text under start that is not in denied. Envoy accepts a
// certificate when one of several matchers does and has no "not", so the rest of
// the language is spelled out: for each beginning that a denied text has, the
// texts that leave it there.
func allBut(start string, denied []string) []*matcherv3.StringMatcher {
	next := map[string][]byte{} // a beginning, and the bytes with which denied texts go on
	whole := map[string]bool{}
	for _, text := range denied {
		if len(text) < len(start) || text[:len(start)] != start {
			continue
		}
		whole[text] = true
		for i := len(start); i < len(text); i++ {
			if !slices.Contains(next[text[:i]], text[i]) {
				next[text[:i]] = append(next[text[:i]], text[i])
			}
		}
	}
	if len(whole) == 0 {
		return []*matcherv3.StringMatcher{prefix(start)}
	}
	begins := map[string]bool{}
	for text := range next {
		begins[text] = true
	}
	for text := range whole {
		begins[text] = true
	}
	var out []*matcherv3.StringMatcher
	for _, text := range sortedKeys(begins) {
		tail := `.+`
		if follow := slices.Sorted(slices.Values(next[text])); len(follow) > 0 {
			class := ""
			for _, c := range follow {
				class += regexp.QuoteMeta(string(rune(c)))
				if c == '-' {
					class = class[:len(class)-1] + `\-`
				}
			}
			tail = `[^` + class + `].*`
		}
		out = append(out, regex(regexp.QuoteMeta(text)+tail))
		if !whole[text] {
			out = append(out, exact(text))
		}
	}
	return out
}
