package config

import (
	"slices"
	"strings"

	"github.com/kerege/kerege/mesh"
)

// checkNever warns of a block of an intention that no call can meet.
func (b *builder) checkNever(intention, x *node) {
	from, except := x.texts("from"), x.texts("except")
	if x.bad || len(from) == 0 {
		return
	}
	if !slices.ContainsFunc(from, func(f string) bool {
		return !slices.ContainsFunc(except, func(e string) bool { return covers(e, f) })
	}) {
		b.warnf(codeNever, x.whereArg("except"), "Leave out of except who is meant, or remove the block.",
			"this %s never matches: except takes out all that from names", x.schema.name)
		return
	}
	if x.schema.name != string(mesh.ActionAllow) {
		return // a deny that cannot be told from HTTP refuses the connection
	}
	for _, arg := range []string{"methods", "path", "path_prefix", "path_regex"} {
		if protocol := b.noHTTP(intention.label, x.texts("ports")); x.has(arg) && protocol != "" {
			w := b.warnf(codeNever, x.whereArg(arg), `Leave it out, or give the service protocol = "http".`,
				"this allow never matches: %s is of HTTP, and service %q speaks %s", arg, intention.label, protocol)
			b.relate(w, b.byName[intention.label].rng, "the service")
			return
		}
	}
}

// checkRouteSpeaks warns of rules that look at HTTP where none is spoken.
func (b *builder) checkRouteSpeaks(n *node, rules []*node) {
	for _, r := range rules {
		var ports []string
		if r.has("port") {
			ports = []string{r.text("port")}
		}
		at := httpPart(r)
		protocol := b.noHTTP(n.label, ports)
		if at == nil || protocol == "" || r.bad {
			continue
		}
		w := b.warnf(codeNever, at.where(), `Leave it out, or give the service protocol = "http".`,
			"rule %s has no effect: its %s is of HTTP, and service %q speaks %s", shownText(r.label), at.schema.name, n.label, protocol)
		b.relate(w, b.byName[n.label].rng, "the service")
	}
}

// httpPart is the first block of a rule that has a meaning in HTTP alone.
func httpPart(r *node) *node {
	for _, x := range r.blocks {
		switch x.schema.name {
		case "redirect", "respond", "rewrite", "request_headers", "response_headers":
			return x
		case "match":
			l4 := 0
			for _, arg := range []string{"from", "sni"} {
				if x.has(arg) {
					l4++
				}
			}
			if len(x.blocks) > 0 || len(x.args) > l4 {
				return x
			}
		}
	}
	return nil
}

// noHTTP is the protocol of a service whose block says that none of these ports
// (none given: of its ports) speaks HTTP; "" where one does, or nothing is said.
func (b *builder) noHTTP(service string, ports []string) string {
	s := b.byName[service]
	if s == nil || s.bad {
		return ""
	}
	var spoken []string
	for _, p := range s.all("port") {
		if len(ports) == 0 || slices.Contains(ports, p.label) {
			spoken = append(spoken, or(p.text("protocol"), s.text("protocol")))
		}
	}
	if len(s.all("port")) == 0 {
		spoken = append(spoken, s.text("protocol"))
	}
	if len(spoken) == 0 || slices.ContainsFunc(spoken, func(p string) bool { return p != string(mesh.ProtocolTCP) && p != string(mesh.ProtocolTLS) }) {
		return ""
	}
	slices.Sort(spoken)
	return strings.Join(slices.Compact(spoken), " and ")
}
