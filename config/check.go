package config

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// check holds the entries against each other, whatever file they stand in.
func (b *builder) check(root *node) {
	for _, n := range root.all("route") {
		b.checkRoute(n)
	}
	for _, n := range root.all("intention") {
		b.checkIntention(n)
	}
	b.checkShadowed(root.all("intention"))
}

func (b *builder) checkRoute(n *node) {
	rules := n.all("rule")
	if len(rules) == 0 && len(n.blocks) == 0 && !n.bad {
		b.errorf(codeEmpty, n.where(), "Add a rule, or remove the block.", "an empty route")
	}
	for _, r := range rules {
		b.checkActions(r)
		b.checkRewrite(r)
		b.checkRedirect(r)
		for _, name := range []string{"request_headers", "response_headers"} {
			if x := r.block(name); x != nil && len(x.args) == 0 && !x.bad {
				b.errorf(codeEmpty, x.where(), "Add set, add or remove.", "an empty %s", name)
			}
		}
		b.checkPortName(n.label, r, "port", []item{{text: r.text("port"), rng: r.whereArg("port").rng}})
		for _, to := range r.all("to") {
			b.checkSubset(to)
		}
	}
	b.checkRest(n, rules)
	b.checkRouteSpeaks(n, rules)
	b.checkReach(rules)
	b.checkLoops(rules)
}

// checkActions allows one way of answering in a rule.
func (b *builder) checkActions(r *node) {
	var first *node
	for _, x := range r.blocks {
		switch x.schema.name {
		case "to", "redirect", "respond", "reject":
		default:
			continue
		}
		if first != nil && (first.schema != x.schema) {
			d := b.errorf(codeExclusive, x.where(), "Keep one of them.", "%s and %s exclude each other in one rule", first.schema.name, x.schema.name)
			b.relate(d, first.rng, "first here")
			return
		}
		first = x
	}
	if first != nil && first.schema.name != "to" {
		for _, name := range []string{"rewrite", "retry", "request_headers", "mirror"} {
			if x := r.block(name); x != nil {
				b.errorf(codeExclusive, x.where(), "Leave it out.", "%s has no effect beside %s: no service is asked", name, first.schema.name)
			}
		}
	}
	if len(r.blocks) == 0 && len(r.args) == 0 && !r.bad {
		b.errorf(codeEmpty, r.where(), "Say what it does, or remove it.", "an empty rule")
	}
}

func (b *builder) checkRewrite(r *node) {
	x := r.block("rewrite")
	if x == nil || x.bad {
		return
	}
	if len(x.args) == 0 {
		b.errorf(codeEmpty, x.where(), "Set path, path_prefix, path_regex or host.", "an empty rewrite")
	}
	b.atMostOne(x, "path", "path_prefix", "path_regex")
	b.needsMatch(r, x, "path_prefix")
	b.needsMatch(r, x, "path_regex")
	if sub := x.text("path_regex"); sub != "" {
		b.checkGroups(r, x, sub)
	}
}

// needsMatch demands that each match of the rule says the same kind of path.
func (b *builder) needsMatch(r, x *node, arg string) {
	if !x.has(arg) {
		return
	}
	matches := r.all("match")
	if len(matches) == 0 {
		b.errorf(codeMissing, place{x.nameOf(arg), x.in}, fmt.Sprintf("Add match { %s = … } to the rule.", arg), "%s puts something in place of the match's %s, and there is no match", arg, arg)
	}
	for _, m := range matches {
		if !m.has(arg) && !m.bad {
			d := b.errorf(codeMissing, place{x.nameOf(arg), x.in}, fmt.Sprintf("Add %s to the match.", arg), "%s puts something in place of the match's %s, and a match has none", arg, arg)
			b.relate(d, m.rng, "this match")
			return
		}
	}
}

var groupRef = regexp.MustCompile(`\\(.?)`)

func (b *builder) checkGroups(r, x *node, sub string) {
	for _, ref := range groupRef.FindAllStringSubmatch(sub, -1) {
		n, err := strconv.Atoi(ref[1])
		if ref[1] == `\` {
			continue
		}
		if err != nil {
			b.errorf(codeRegex, x.whereArg("path_regex"), `Groups are \\1 to \\9; \\0 is all of it.`, "%s is no group", shownText(ref[0]))
			return
		}
		for _, m := range r.all("match") {
			re, err := regexp.Compile(m.text("path_regex"))
			if err == nil && m.has("path_regex") && n > re.NumSubexp() {
				d := b.errorf(codeRegex, x.whereArg("path_regex"), "Put what is meant between parentheses in the match.", "group %d is not in the match, which has %d", n, re.NumSubexp())
				b.relate(d, m.args["path_regex"].rng, "this expression")
				return
			}
		}
	}
}

func (b *builder) checkRedirect(r *node) {
	x := r.block("redirect")
	if x == nil || x.bad {
		return
	}
	if !slices.ContainsFunc([]string{"scheme", "host", "port", "path", "path_prefix"}, x.has) {
		b.errorf(codeCycle, x.where(), "Set scheme, host, port, path or path_prefix.", "the redirect leads to where the caller already is")
	}
	b.atMostOne(x, "path", "path_prefix")
	b.needsMatch(r, x, "path_prefix")
	if c := x.int("code"); x.has("code") && !slices.Contains([]int{301, 302, 303, 307, 308}, c) {
		b.errorf(codeRange, x.whereArg("code"), "308 keeps the method and is remembered, 307 keeps it and is not.", "code is 301, 302, 303, 307 or 308, not %d", c)
	}
}

// checkPortName holds names of ports against the service's block, where it
// declares any.
func (b *builder) checkPortName(service string, n *node, arg string, given []item) {
	s := b.byName[service]
	if s == nil || !n.has(arg) || s.bad {
		return
	}
	var known []string
	for _, p := range s.all("port") {
		known = append(known, p.label)
	}
	for _, g := range given {
		if len(known) > 0 && !slices.Contains(known, g.text) {
			b.errorf(codeReference, place{g.rng, n.in}, didYouMean(g.text, known), "service %q has no port %s", service, shownText(g.text))
		}
	}
}

// checkSubset demands that a target's subset is declared. A service without a
// block may still be registered, so its name alone is not judged here.
func (b *builder) checkSubset(to *node) {
	service, subset, has := strings.Cut(to.label, ".")
	if !has || b.broken || to.bad {
		return
	}
	s := b.byName[service]
	if s == nil {
		if b.subsetted == nil {
			var known []string
			for name, n := range b.byName {
				if n.block("subset") != nil {
					known = append(known, name)
				}
			}
			slices.Sort(known)
			b.subsetted = newSpeller(known)
		}
		fix := fmt.Sprintf("Add service %q { subset %q { filter = … } }.", service, subset)
		if near := b.subsetted.near(service); near != "" {
			fix = fmt.Sprintf("Did you mean %q?", near+"."+subset)
		}
		b.errorf(codeReference, place{to.labelRng, to.in}, fix, "service %q has no block here, so it has no subset %q", service, subset)
		return
	}
	var known []string
	for _, x := range s.all("subset") {
		if x.label == subset {
			return
		}
		known = append(known, x.label)
	}
	fix := fmt.Sprintf("Add subset %q { filter = … } to service %q.", subset, service)
	if near := nearest(subset, known); near != "" {
		fix = fmt.Sprintf("Did you mean %q?", service+"."+near)
	} else if len(known) > 0 {
		fix += " It has " + strings.Join(known, ", ") + "."
	}
	d := b.errorf(codeReference, place{to.labelRng, to.in}, fix, "service %q has no subset %q", service, subset)
	b.relate(d, s.rng, "the service")
}

// takesAll says whether a rule takes every call that reaches it.
func takesAll(r *node) bool { return r.block("match") == nil && !r.has("port") }

// checkRest warns of a canary by match alone: what no rule takes goes to all
// of the service, the canary's instances among them.
func (b *builder) checkRest(n *node, rules []*node) {
	var canary *node
	for _, r := range rules {
		if takesAll(r) {
			return
		}
		to := r.all("to")
		if len(to) == 1 && strings.HasPrefix(to[0].label, n.label+".") && canary == nil {
			canary = to[0]
		}
	}
	if canary == nil || n.bad {
		return
	}
	b.warnf(codeNoRest, canary.where(), fmt.Sprintf("Add a last rule: rule \"rest\" { to %q {} }.", n.label+".…"),
		"calls that no rule takes go to all of %s, %s among them", n.label, canary.label)
}

// checkReach warns of rules behind one that takes everything.
func (b *builder) checkReach(rules []*node) {
	for i, r := range rules {
		if !takesAll(r) || i == len(rules)-1 || r.bad {
			continue
		}
		d := b.warnf(codeNever, rules[i+1].where(), "Put the rule without match last.", "no call reaches rule %s", shownText(rules[i+1].label))
		b.relate(d, r.rng, "this rule takes every call")
		return
	}
}
