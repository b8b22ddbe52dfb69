package config

import (
	"fmt"
	"strings"
)

// LanguageReference is docs/reference/language.md, generated from the schema
// that parses.
func LanguageReference() string {
	r := &reference{seen: map[string]string{}}
	r.line("# The language\n")
	r.line("Generated from the schema that parses it: `go test ./config -run Reference -update`.\n")
	r.line("Mesh files end in `.hcl` (or `.json`, in HCL's JSON syntax). All files of a directory are one transaction: order does not matter, and with one error nothing of it is applied. `kerege validate` checks them, `kerege fmt` lays them out, `kerege plan` says what would change, `kerege apply` does it.\n")
	r.values()
	r.line("Blocks marked *not supported yet* are checked in full and listed by `kerege validate`; `kerege apply` refuses them.\n")
	r.index(meshSchema())
	for _, b := range meshSchema().blocks {
		r.block(b, b.name, 2)
	}
	r.filters()
	r.codes()
	return r.b.String()
}

// SettingsReference is docs/reference/settings.md.
func SettingsReference() string {
	r := &reference{seen: map[string]string{}}
	r.line("# Settings\n")
	r.line("Generated from the schema that parses them: `go test ./config -run Reference -update`.\n")
	r.line("Settings of a process are files of their own, apart from the mesh: `/etc/kerege.d/server.hcl` and `/etc/kerege.d/agent.hcl`. The files of a directory merge in lexical order; a later argument, or a later block as a whole, replaces an earlier one. A server passes over files whose names begin with `agent`, an agent over those that begin with `server`; what both share may stand in a third.\n")
	r.line("A flag wins over the environment, the environment over a file, a file over the default. Secrets belong into files: `token_file` rather than `token`; no output ever shows one.\n")
	for _, s := range []struct {
		title  string
		schema *block
	}{{"server.hcl", serverSchema()}, {"agent.hcl", agentSchema()}} {
		r.seen = map[string]string{}
		r.line("## %s\n", s.title)
		r.attrs(s.schema)
		for _, b := range s.schema.blocks {
			r.block(b, strings.TrimSuffix(s.title, ".hcl")+" "+b.name, 3)
		}
	}
	return r.b.String()
}

type reference struct {
	b    strings.Builder
	seen map[string]string // what a block says, and where it was first said
}

func (r *reference) line(format string, args ...any) { fmt.Fprintf(&r.b, format+"\n", args...) }

func (r *reference) values() {
	r.line("## Values\n")
	r.line("| value | written |\n|---|---|")
	for _, v := range [][2]string{
		{"text", "`\"text\"`; a backslash is written `\\\\`; there are no templates, so `${` is written `$${` and `%{` is written `%%{`. Several lines: `<<EOT` … `EOT`"},
		{"duration", "`\"250ms\"`, `\"3s\"`, `\"5m\"`, `\"24h\"`, `\"7d\"`; never `0s`; where it says so, `\"none\"` switches it off"},
		{"percent", "`\"5%\"`; a weight is a number, `10` or `0.01`"},
		{"size", "`\"64KiB\"`, `\"10MiB\"`"},
		{"list", "`[\"a\", \"b\"]`, never empty, nothing twice"},
		{"object", "`{ key = \"value\" }`, no key twice"},
		{"name", fmt.Sprintf("lower-case letters, digits, `-` and `_`, at most %d, first and last a letter or digit", 63)},
	} {
		r.line("| %s | %s |", v[0], v[1])
	}
	r.line("\nA block with one argument may stay on one line; any other has one argument a line. There are no variables, functions or operators.\n")
	r.line("Limits: %d MiB a file, %d MiB and %d files and %d blocks together, %d brackets deep, %d KiB a text.\n",
		MaxFileBytes>>20, MaxTotalBytes>>20, MaxFiles, MaxBlocks, MaxDepth, MaxStringBytes>>10)
}

func (r *reference) index(root *block) {
	r.line("## Blocks\n")
	r.line("| block | what it is |\n|---|---|")
	for _, b := range root.blocks {
		r.line("| [`%s`](#%s) | %s%s |", head(b), b.name, b.doc, later(b.later))
	}
	r.line("")
}

func head(b *block) string {
	if b.labels() == 1 {
		return b.name + ` "…"`
	}
	return b.name
}

func later(is bool) string {
	if is {
		return " *Not supported yet.*"
	}
	return ""
}

func (r *reference) block(b *block, path string, level int) {
	r.line("%s %s\n", strings.Repeat("#", min(level, 5)), path)
	text := b.doc
	if b.labels() == 1 {
		text += fmt.Sprintf(" Its label is %s.", plainText(b.label))
	}
	if b.many && b.labels() == 0 || b.free {
		text += " It may stand several times."
	}
	r.line("%s%s\n", text, later(b.later))
	body := outline(b)
	if first, ok := r.seen[body]; ok {
		r.line("The same as [%s](#%s).\n", first, strings.ReplaceAll(first, " ", "-"))
		return
	}
	r.seen[body] = path
	r.attrs(b)
	for _, x := range b.blocks {
		r.block(x, path+" "+x.name, level+1)
	}
}

// outline tells blocks of equal content apart from others of the same name.
func outline(b *block) string {
	var s strings.Builder
	s.WriteString(b.name)
	for _, a := range b.attrs {
		s.WriteString(" " + a.name + "=" + a.typ.name + a.def)
	}
	for _, x := range b.blocks {
		s.WriteString(" {" + outline(x) + "}")
	}
	return s.String()
}

func (r *reference) attrs(b *block) {
	if len(b.attrs) == 0 {
		return
	}
	r.line("| argument | type | default | |\n|---|---|---|---|")
	for _, a := range b.attrs {
		def := a.def
		switch {
		case a.required:
			def = "**required**"
		case strings.HasPrefix(def, `"`) || strings.HasPrefix(def, "["):
			def = codeFirst(def)
		}
		r.line("| `%s` | %s | %s | %s%s |", a.name, plainText(a.typ.name), def, a.doc, later(a.later))
	}
	r.line("")
}

// plainText keeps Markdown from reading a text's signs.
func plainText(s string) string { return strings.NewReplacer("*", `\*`, "|", `\|`).Replace(s) }

// codeFirst puts a literal default between backquotes, and leaves prose alone.
func codeFirst(def string) string {
	if i := strings.Index(def, `", `); i > 0 && !strings.HasPrefix(def, "[") {
		return "`" + def[:i+1] + "`" + def[i+1:]
	}
	return "`" + def + "`"
}

func (r *reference) filters() {
	r.line("## Filters\n")
	r.line("A filter is [bexpr](https://github.com/hashicorp/go-bexpr) over one instance, as in `\"Service.Meta.version == v1 and canary not in Service.Tags\"`. A missing key equals nothing and is empty. Values with other characters than letters, digits, `_` and `.` stand between backquotes.\n")
	r.line("| selector | |\n|---|---|")
	for _, s := range [][2]string{
		{"Service.ID", "its id in its registry"}, {"Service.Port", "its port"}, {"Service.Tags", "its tags, with `in` and `not in`"},
		{"Service.Meta.KEY", "a value of its metadata; `Service.Meta` with `in` is the keys"},
		{"Node", "its node's name"}, {"Node.Meta.KEY", "a value of its node's metadata"},
		{"Datacenter", "where it is"}, {"Namespace", "in its registry"}, {"Source", "`consul`, `nomad` or `file`"},
	} {
		r.line("| `%s` | %s |", s[0], s[1])
	}
	r.line("\nOperators: `==`, `!=`, `in`, `not in`, `contains`, `is empty`, `is not empty`, `matches`, `not matches` (RE2), `and`, `or`, `not`, parentheses.\n")
}

func (r *reference) codes() {
	r.line("## Diagnostics\n")
	r.line("Each names severity, file, line and column, the line with a caret, and a fix; `-json` gives the same as data.\n")
	r.line("| code | severity | meaning |\n|---|---|---|")
	for _, c := range Codes() {
		r.line("| %s | %s | %s |", c.Code, c.Severity, c.Meaning)
	}
}
