package config

import (
	"slices"
	"strings"
)

func (b *builder) checkIntention(n *node) {
	if len(n.blocks) == 0 && !n.bad {
		b.errorf(codeEmpty, n.where(), `Say who may call: allow { from = ["web"] }. To refuse everybody: deny { from = ["*"] }.`, "an empty intention")
	}
	names := map[string]*node{}
	for _, x := range n.blocks {
		b.atMostOne(x, "path", "path_prefix", "path_regex")
		b.checkNever(n, x)
		if v := x.args["ports"]; v != nil {
			b.checkPortName(n.label, x, "ports", v.items)
		}
		if name := x.text("name"); name != "" {
			if first := names[name]; first != nil {
				d := b.errorf(codeTwice, x.whereArg("name"), "A rule's name is in logs and refusals: give each its own.", "the name %q is there twice", name)
				b.relate(d, first.args["name"].rng, "first here")
			}
			names[name] = x
		}
	}
}

// covers says whether a pattern takes in all that another one does.
func covers(wide, narrow string) bool {
	prefix, ok := strings.CutSuffix(wide, "*")
	return wide == narrow || ok && strings.HasPrefix(strings.TrimSuffix(narrow, "*"), prefix)
}

func overlap(a, b string) bool { return covers(a, b) || covers(b, a) }

// checkShadowed warns where a deny takes back all that an intention allows.
func (b *builder) checkShadowed(intentions []*node) {
	var denies []struct{ intention, rule *node }
	for _, n := range intentions {
		for _, x := range n.all("deny") {
			if !x.has("methods") && !x.has("path") && !x.has("path_prefix") && !x.has("path_regex") && !x.has("ports") && !x.has("when") && !x.flag("shadow") {
				denies = append(denies, struct{ intention, rule *node }{n, x})
			}
		}
	}
	for _, n := range intentions {
		allows := n.all("allow")
		for _, d := range denies {
			if len(allows) == 0 || !covers(d.intention.label, n.label) || !shadowsAll(d.rule, allows) {
				continue
			}
			w := b.warnf(codeShadowed, d.rule.where(), "A deny wins over every allow. Name exceptions with except, or leave it out: what no allow names is denied anyway where default_intention is \"deny\".",
				"this deny takes back everything that intention %q allows", n.label)
			b.relate(w, allows[0].rng, "an allow without effect")
			break
		}
	}
}

func shadowsAll(deny *node, allows []*node) bool {
	from, except := deny.texts("from"), deny.texts("except")
	for _, a := range allows {
		for _, caller := range a.texts("from") {
			taken := slices.ContainsFunc(from, func(f string) bool { return covers(f, caller) })
			spared := slices.ContainsFunc(except, func(e string) bool { return overlap(e, caller) })
			if !taken || spared {
				return false
			}
		}
	}
	return true
}
