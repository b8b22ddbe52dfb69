package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	hcljson "github.com/hashicorp/hcl/v2/json"
)

// node is one block, checked against its schema.
type node struct {
	schema   *block
	label    string
	labelRng hcl.Range
	rng      hcl.Range // its type and labels
	in       string    // route "api", rule "checkout"
	args     map[string]*value
	blocks   []*node
	later    bool // it, or a block around it, is not supported yet
	bad      bool // something in it was refused; checks that need all of it pass over it
}

// parser turns files into nodes.
type parser struct {
	*sink
	elsewhere map[string]string // names of the other kinds of file, and where they belong
	later     Diagnostics       // what is not supported yet
	filters   map[string]compiled
	known     map[string]*parsed // files that need not be parsed again; nil: settings
	braces    map[string]int     // that were counted in the others
	hidden    bool               // the argument at hand is a secret: no message quotes it
}

func (p *parser) text(r hcl.Range) string {
	src := p.files[r.Filename]
	if r.Start.Byte < 0 || r.End.Byte > len(src) || r.Start.Byte > r.End.Byte {
		return ""
	}
	return string(src[r.Start.Byte:r.End.Byte])
}

// scan prescans all files before one of them is parsed, and returns the names
// of those that may be, sorted; none when the files are too much together.
func (p *parser) scan() []string {
	total, braces := 0, 0
	p.braces = map[string]int{}
	var out []string
	for _, name := range slices.Sorted(maps.Keys(p.files)) {
		before := len(p.diags)
		total += len(p.files[name])
		n := 0
		if k := p.known[name]; k != nil {
			n = k.braces
		} else {
			n = prescan(p.sink, name, p.files[name])
			p.braces[name] = n
		}
		braces += n
		switch {
		case total > MaxTotalBytes:
			p.errorf(codeLimit, place{rng: startOf(name)}, "", "the files have more than %d bytes together", MaxTotalBytes)
			return nil
		case braces > MaxBlocks:
			p.errorf(codeLimit, place{rng: startOf(name)}, "", "the files have more than %d blocks together", MaxBlocks)
			return nil
		case len(p.diags) == before:
			out = append(out, name)
		}
	}
	return out
}

// file parses one file, which was scanned, into a root node; nil when it could not.
func (p *parser) file(name string, src []byte, schema *block) *node {
	root := &node{schema: schema, args: map[string]*value{}}
	if strings.HasSuffix(name, ".json") {
		f, diags := hcljson.Parse(src, name)
		if p.foreign(diags); diags.HasErrors() {
			return nil
		}
		p.jsonBody(f.Body, root)
		return root
	}
	f, diags := hclsyntax.ParseConfig(src, name, hcl.InitialPos)
	if p.foreign(diags); diags.HasErrors() {
		return nil
	}
	body, ok := f.Body.(*hclsyntax.Body)
	if !ok {
		return nil
	}
	p.body(body, root)
	return root
}

// startOf is all of a file: no line of it in particular.
func startOf(name string) hcl.Range {
	return hcl.Range{Filename: name}
}

// plainWords says hcl's commonest findings shorter, with what to type.
var plainWords = map[string][3]string{ // summary: code, message, fix
	"Attribute redefined":                      {codeTwice, "an argument is there twice", ""},
	"Duplicate argument":                       {codeTwice, "an argument is there twice", ""},
	"Extraneous JSON object property":          {codeUnknown, "there is no such argument or block here", ""},
	"Invalid expression":                       {"", "the value is missing or malformed", `Write a value, as "text", 10, true or ["a"].`},
	"Missing expression":                       {"", "the value is missing", `Write a value, as "text", 10, true or ["a"].`},
	"Invalid single-argument block definition": {"", "a block on one line holds one argument at most", "Write one argument a line, and } on a line of its own."},
	"Missing newline after argument":           {"", "two arguments on one line", "Write one argument a line."},
	"Missing newline after block definition":   {"", "something follows a block on its line", "Begin a new line after }."},
	"Argument or block definition required":    {"", "neither an argument nor a block", `An argument is name = value, a block is name { … } or name "label" { … }.`},
	"Invalid block definition":                 {"", "neither an argument nor a block", `An argument is name = value, a block is name { … } or name "label" { … }, its { on the same line.`},
	"Missing item separator":                   {"", "a comma is missing", `Separate the items: ["a", "b"].`},
	"Missing attribute separator":              {"", "a comma is missing", `Separate the entries: { a = "1", b = "2" }.`},
}

// foreign translates hcl's own diagnostics.
func (p *parser) foreign(diags hcl.Diagnostics) {
	for _, d := range diags {
		if d.Severity != hcl.DiagError || d.Subject == nil {
			continue
		}
		code, msg, fix := codeSyntax, d.Summary, d.Detail
		if msg != "" {
			msg = strings.ToLower(msg[:1]) + msg[1:]
		}
		if w, ok := plainWords[d.Summary]; ok {
			code, msg, fix = or(w[0], codeSyntax), w[1], or(w[2], d.Detail)
		}
		p.errorf(code, place{rng: *d.Subject}, fix, "%s", msg)
	}
}

func (p *parser) body(body *hclsyntax.Body, n *node) {
	for _, a := range sortedAttrs(body.Attributes) {
		schema := n.schema.attrNamed(a.Name)
		if schema == nil {
			p.unknown(n, a.Name, a.NameRange, "argument")
			continue
		}
		p.hidden = schema.typ == secret
		if r, ok := p.native(a.Expr, n.in); ok {
			p.argument(n, schema, a.NameRange, r)
		} else {
			n.bad = true
		}
	}
	for _, b := range body.Blocks {
		schema := n.schema.blockNamed(b.Type)
		if schema == nil {
			p.unknown(n, b.Type, b.TypeRange, "block")
			continue
		}
		child := p.open(n, schema, b)
		if child != nil {
			p.body(b.Body, child)
			p.closed(child)
		}
	}
}

// sortedAttrs is the arguments as written.
func sortedAttrs(attrs hclsyntax.Attributes) []*hclsyntax.Attribute {
	out := make([]*hclsyntax.Attribute, 0, len(attrs))
	for _, a := range attrs {
		out = append(out, a)
	}
	sortBy(out, func(a *hclsyntax.Attribute) int { return a.SrcRange.Start.Byte })
	return out
}

func (p *parser) argument(n *node, schema *attr, nameRng hcl.Range, r raw) {
	v, ok := p.decode(schema, r, n.in)
	if !ok {
		n.bad = true
		return
	}
	v.nameRng = nameRng
	n.args[schema.name] = v
	if schema.later && !n.later {
		p.unsupported(schema.name, nameRng, n.in)
	}
}

// unsupported notes what apply will refuse.
func (p *parser) unsupported(what string, rng hcl.Range, in string) {
	s := &sink{files: p.files, lines: p.lines}
	s.errorf(codeLater, place{rng, in}, "Leave it out until it is; `kerege apply` refuses it.", "%s is not supported yet", what)
	p.later = append(p.later, s.diags...)
}

// open checks a block's labels and adds it to its parent.
func (p *parser) open(n *node, schema *block, b *hclsyntax.Block) *node {
	rng := b.TypeRange
	if len(b.LabelRanges) > 0 {
		rng = hcl.RangeBetween(rng, b.LabelRanges[len(b.LabelRanges)-1])
	}
	if len(b.Labels) != schema.labels() {
		p.errorf(codeLabels, place{rng, n.in}, labelFix(schema), "%s %s", schema.name, labelProblem(schema, len(b.Labels)))
		n.bad = true
		return nil
	}
	label, labelRng := "", rng
	if len(b.Labels) == 1 {
		label, labelRng = b.Labels[0], b.LabelRanges[0]
	}
	return p.enter(n, schema, label, labelRng, rng)
}

func labelProblem(b *block, given int) string {
	switch {
	case b.labels() == 0:
		return "takes no label"
	case given == 0:
		return "needs a label"
	}
	return fmt.Sprintf("takes one label, not %d", given)
}

func labelFix(b *block) string {
	if b.labels() == 0 {
		return fmt.Sprintf("Write %s { … }.", b.name)
	}
	return fmt.Sprintf("Write %s %q { … }, with %s between the quotes.", b.name, "…", b.label)
}

// enter makes a node below another one.
func (p *parser) enter(n *node, schema *block, label string, labelRng, rng hcl.Range) *node {
	child := &node{schema: schema, label: label, labelRng: labelRng, rng: rng, args: map[string]*value{}}
	child.in = schema.name
	if schema.labels() == 1 {
		child.in += " " + shownText(label)
	}
	if n.in != "" {
		child.in = n.in + ", " + child.in
	}
	if schema.labels() == 1 {
		check := schema.check
		if check == nil {
			check = name
		}
		if !p.checkText(&attr{name: schema.name, typ: check, isLabel: true}, label, labelRng, n.in) {
			child.bad, n.bad = true, true
		}
	}
	n.blocks = append(n.blocks, child)
	child.later = n.later || schema.later
	if schema.later && !n.later { // the outermost is named, not all that is in it
		p.unsupported(schema.name, rng, n.in)
	}
	return child
}

// closed checks what a finished block must have, and what it has twice.
func (p *parser) closed(n *node) {
	for _, a := range n.schema.attrs {
		if a.required && n.args[a.name] == nil && !n.bad {
			p.errorf(codeMissing, place{n.rng, n.in}, fmt.Sprintf("For example %s = %s.", a.name, a.typ.example), "%s needs %s", n.schema.name, a.name)
			n.bad = true
		}
	}
	for _, b := range n.schema.blocks {
		if b.need && n.block(b.name) == nil && !n.bad {
			p.errorf(codeMissing, n.where(), fmt.Sprintf("Add %s { … }.", b.name), "%s needs the block %s", n.schema.name, b.name)
			n.bad = true
		}
	}
	p.once(n)
}

// once refuses a second block of one type and label, and names both places.
func (p *parser) once(n *node) {
	type id struct {
		schema *block
		label  string
	}
	seen := map[id]*node{}
	kept := n.blocks[:0]
	for _, b := range n.blocks {
		if b.schema.free || b.schema.many && b.schema.labels() == 0 {
			kept = append(kept, b)
			continue
		}
		key := id{b.schema, b.label}
		if first := seen[key]; first != nil {
			p.twice(first, b, n.in)
			n.bad = true
			continue
		}
		seen[key] = b
		kept = append(kept, b)
	}
	n.blocks = kept
}

func (p *parser) twice(first, second *node, in string) {
	what := second.schema.name
	fix := "Keep one of them, or join the two."
	if second.schema.labels() == 1 {
		what += " " + shownText(second.label)
	}
	d := p.errorf(codeTwice, place{second.rng, in}, fix, "%s is there twice", what)
	p.relate(d, first.rng, "first here")
}

// an puts the article before a word.
func an(word string) string {
	if strings.Contains("aeio", word[:1]) {
		return "an " + word
	}
	return "a " + word
}

// unknown reports a name that the schema does not have here.
func (p *parser) unknown(n *node, given string, rng hcl.Range, what string) {
	n.bad = true
	where := n.schema.name
	if n.schema.labels() == 1 || n.in != "" {
		where += " block"
	}
	where = an(where)
	other := n.schema.blockNamed(given)
	if what == "argument" && other != nil {
		p.errorf(codeUnknown, place{rng, n.in}, labelFix(other), "%s is a block here, not an argument", given)
		return
	}
	if a := n.schema.attrNamed(given); what == "block" && a != nil {
		p.errorf(codeUnknown, place{rng, n.in}, fmt.Sprintf("Write %s = %s.", given, a.typ.example), "%s is an argument here, not a block", given)
		return
	}
	if own := n.schema.meant[given]; own != "" {
		p.errorf(codeUnknown, place{rng, n.in}, fmt.Sprintf("Write %s.", own), "there is no %s %s in %s", what, shownText(given), where)
		return
	}
	if home := p.elsewhere[given]; home != "" && n.in == "" {
		p.errorf(codePlace, place{rng, n.in}, "Move it to "+home+".", "%s does not belong into %s", given, an(n.schema.name))
		return
	}
	p.errorf(codeUnknown, place{rng, n.in}, didYouMean(given, n.schema.names()), "there is no %s %s in %s", what, shownText(given), where)
}
