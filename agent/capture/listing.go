package capture

import (
	"slices"
	"strings"
)

// listing is one table as it stands: what each chain holds, in order.
type listing struct {
	chains map[string][]string // a rule is its words joined by one space
}

// parseListing reads what iptables -S prints. What it does not understand it
// skips: other tools' rules are none of ours.
func parseListing(lines []string) listing {
	l := listing{chains: map[string][]string{}}
	for _, line := range lines {
		f := split(line)
		if len(f) < 2 {
			continue
		}
		switch f[0] {
		case "-P", "-N":
			if _, known := l.chains[f[1]]; !known {
				l.chains[f[1]] = nil
			}
		case "-A":
			l.chains[f[1]] = append(l.chains[f[1]], strings.Join(normal(f[2:]), " "))
		}
	}
	return l
}

// split cuts a line into words; a quoted word may hold spaces.
func split(line string) []string {
	var out []string
	var word strings.Builder
	quoted, any := false, false
	for _, r := range line {
		switch {
		case r == '"':
			quoted, any = !quoted, true
		case (r == ' ' || r == '\t') && !quoted:
			if any {
				out = append(out, word.String())
			}
			word.Reset()
			any = false
		default:
			word.WriteRune(r)
			any = true
		}
	}
	if any {
		out = append(out, word.String())
	}
	return out
}

// normal drops what says nothing of a rule's effect: comments and counters.
func normal(words []string) []string {
	var out []string
	for i := 0; i < len(words); i++ {
		switch {
		case words[i] == "-m" && i+1 < len(words) && words[i+1] == "comment":
			i++
		case words[i] == "--comment":
			i++
		case words[i] == "-c":
			i += 2
		default:
			out = append(out, words[i])
		}
	}
	return out
}

func (l listing) has(chain string) bool {
	_, ok := l.chains[chain]
	return ok
}

// ours lists the chains that are ours, sorted.
func (l listing) ours() []string {
	var out []string
	for chain := range l.chains {
		if isOurs(chain) {
			out = append(out, chain)
		}
	}
	slices.Sort(out)
	return out
}

func isOurs(chain string) bool {
	for _, h := range allHooks {
		if chain == h.root || chain == h.generation("A") || chain == h.generation("B") {
			return true
		}
	}
	return false
}

// foreign counts the rules of others.
func (l listing) foreign() int {
	n := 0
	for chain, rules := range l.chains {
		if isOurs(chain) {
			continue
		}
		for _, r := range rules {
			if !slices.ContainsFunc(allHooks, func(h hook) bool { return r == h.jump() }) {
				n++
			}
		}
	}
	return n
}

// hook is where one of our root chains hangs.
type hook struct{ builtin, root string }

// Hooks in the order in which they are installed: inbound first, so that a
// workload never calls as a member of the mesh before it answers as one.
var (
	natHooks = []hook{{"PREROUTING", chainIn}, {"OUTPUT", chainOut}}
	rawHooks = []hook{{"OUTPUT", chainDNS}}
	allHooks = slices.Concat(natHooks, rawHooks)
)

// The tables that hold our chains.
const (
	nat = "nat"
	raw = "raw"
)

var ownTables = []string{nat, raw}

func hooksOf(table string) []hook {
	if table == raw {
		return rawHooks
	}
	return natHooks
}

func tableOf(root string) string {
	if root == chainDNS {
		return raw
	}
	return nat
}

func (h hook) jump() string                    { return "-j " + h.root }
func (h hook) generation(letter string) string { return h.root + "_" + letter }

// live is the generation that the root chain leads to; "" if it leads nowhere.
func (h hook) live(l listing) string {
	rules := l.chains[h.root]
	if len(rules) == 0 {
		return ""
	}
	for _, letter := range []string{"A", "B"} {
		if rules[0] == "-j "+h.generation(letter) && l.has(h.generation(letter)) {
			return h.generation(letter)
		}
	}
	return ""
}

// idle is the generation that is built next.
func (h hook) idle(l listing) string { return h.other(h.live(l)) }

// other is the generation besides the given one; A besides none.
func (h hook) other(generation string) string {
	if generation == h.generation("A") {
		return h.generation("B")
	}
	return h.generation("A")
}

// jumps counts the built-in chain's jumps to our root.
func (h hook) jumps(l listing) int {
	n := 0
	for _, r := range l.chains[h.builtin] {
		if r == h.jump() {
			n++
		}
	}
	return n
}
