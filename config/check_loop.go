package config

import (
	"regexp"
	"strings"
)

// checkLoops finds redirects that lead back to themselves: those that keep
// scheme, host and port, followed through the rules that look at nothing but
// the path.
func (b *builder) checkLoops(rules []*node) {
	for _, r := range rules {
		x := r.block("redirect")
		if x == nil || x.bad || r.bad || x.has("scheme") || x.has("host") || x.has("port") {
			continue
		}
		if to := x.text("path_prefix"); to != "" {
			for _, m := range r.all("match") {
				if from := m.text("path_prefix"); from != "" && pathOnly(m) && underPrefix(to, from) {
					b.errorf(codeCycle, x.whereArg("path_prefix"), "Redirect to a path that the rule does not take.", "the redirect leads to itself: %q lies under %q", to, from)
				}
			}
			continue
		}
		b.followLoop(rules, r, x)
	}
}

func (b *builder) followLoop(rules []*node, start, redirect *node) {
	path := redirect.text("path")
	if path == "" {
		return
	}
	for range len(rules) + 1 {
		next := taker(rules, path)
		if next == start {
			b.errorf(codeCycle, redirect.whereArg("path"), "Redirect to a path that the rule does not take.", "the redirect leads to itself: rule %s takes %q again", shownText(start.label), path)
			return
		}
		if next == nil {
			return
		}
		x := next.block("redirect")
		if x == nil || x.text("path") == "" || x.has("scheme") || x.has("host") || x.has("port") {
			return
		}
		path = x.text("path")
	}
}

// taker is the first rule that takes any request for the path.
func taker(rules []*node, path string) *node {
	for _, r := range rules {
		if takesAll(r) {
			return r
		}
		for _, m := range r.all("match") {
			if !r.has("port") && pathOnly(m) && takesPath(m, path) {
				return r
			}
		}
	}
	return nil
}

func pathOnly(m *node) bool {
	return len(m.blocks) == 0 && !m.has("methods") && !m.has("from") && !m.has("grpc_service") && !m.has("sni")
}

func takesPath(m *node, path string) bool {
	switch {
	case m.has("path"):
		return m.text("path") == path
	case m.has("path_prefix"):
		return underPrefix(path, m.text("path_prefix"))
	case m.has("path_regex"):
		re, err := regexp.Compile("^(?:" + m.text("path_regex") + ")$")
		return err == nil && re.MatchString(path)
	}
	return true
}

// underPrefix is the language's path_prefix: whole segments, trailing slash ignored.
func underPrefix(path, prefix string) bool {
	prefix = strings.TrimSuffix(prefix, "/")
	rest, ok := strings.CutPrefix(path, prefix)
	return ok && (rest == "" || rest[0] == '/')
}
