package config

import (
	"strings"
)

// The schema is plain data: what may stand where, of which type, with which
// stated default. The parser, its suggestions and the generated reference all
// read it; nothing else says what the language is.

// block describes one type of block.
type block struct {
	name   string
	label  string // what its label names; "" is no label
	check  *typ   // of the label; nil: name
	doc    string
	attrs  []*attr
	blocks []*block
	many   bool // may stand several times; with a label: each label once
	free   bool // labels may repeat
	later  bool // parsed and checked, refused by apply
	need   bool // must be there

	meant map[string]string // a name that others say, and the argument or block that it is here
}

// attr describes one argument.
type attr struct {
	name     string
	typ      *typ
	def      string // the stated default, as prose
	doc      string
	required bool
	later    bool
	isLabel  bool // stands for a block's label in messages
}

// kind is the shape of a value.
type kind uint8

const (
	kindText kind = iota
	kindBool
	kindInt
	kindNumber
	kindDuration
	kindPercent // a text such as "5%"
	kindSize    // a text such as "64KiB"
	kindTexts   // a list of texts, each checked
	kindInts
	kindMap     // names to texts
	kindNumbers // names to numbers
)

// typ is the type of an argument: a shape and what is checked of it.
type typ struct {
	kind     kind
	name     string // in messages and the reference
	example  string // in a fix
	words    []string
	none     bool // "none" is allowed
	zero     bool // a duration may be zero
	min, max float64
	check    func(string) (problem, fix string)
	code     string // of check; default codeFormat
	lax      bool   // words are only suggestions: check decides
}

// attrNamed returns the argument's schema, or nil.
func (b *block) attrNamed(name string) *attr {
	for _, a := range b.attrs {
		if a.name == name {
			return a
		}
	}
	return nil
}

// blockNamed returns the nested block's schema, or nil.
func (b *block) blockNamed(name string) *block {
	for _, x := range b.blocks {
		if x.name == name {
			return x
		}
	}
	return nil
}

// labels is the number of labels: a block type has the same wherever it stands.
func (b *block) labels() int {
	if b.label == "" {
		return 0
	}
	return 1
}

// names lists what may stand in the block.
func (b *block) names() []string {
	var out []string
	for _, a := range b.attrs {
		out = append(out, a.name)
	}
	for _, x := range b.blocks {
		out = append(out, x.name)
	}
	return out
}

// nearest returns the candidate that is meant, or "".
func nearest(given string, candidates []string) string {
	best, score := "", 1+(len(given)+1)/3
	given = strings.ToLower(strings.ReplaceAll(given, "-", "_"))
	if len(given) > 64 {
		return ""
	}
	for _, c := range candidates {
		plain := strings.ToLower(strings.ReplaceAll(c, "-", "_"))
		d := distance(given, plain)
		if len(plain) > 2 && len(given) > 2 && (strings.HasPrefix(given, plain) || strings.HasPrefix(plain, given)) {
			d = min(d, 2)
		}
		if d < score {
			best, score = c, d
		}
	}
	return best
}

// distance is the number of edits between two words, a swap of neighbours being one.
func distance(a, b string) int {
	if len(a) > len(b)+8 || len(b) > len(a)+8 {
		return 100
	}
	before, last, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range last {
		last[j] = j
	}
	for i := 1; i <= len(a); i++ {
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
		before, last, row = last, row, before
	}
	return last[len(b)]
}

// didYouMean is a fix that names the nearest candidate, or lists them all.
func didYouMean(given string, candidates []string) string {
	if n := nearest(given, candidates); n != "" {
		return "Did you mean " + quoted(n) + "?"
	}
	if len(candidates) == 0 || len(candidates) > 24 {
		return ""
	}
	return "Known here: " + strings.Join(candidates, ", ") + "."
}

func quoted(s string) string { return `"` + s + `"` }
