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
