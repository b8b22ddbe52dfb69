package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// Foreign says what in an HCL text is no word of kerege's: a text of another
// program, or one with a slip of the pen. "": it is kerege's. Of its blocks it
// looks at the labels, and at the names directly inside.
func Foreign(name string, src []byte) string {
	f, diags := hclsyntax.ParseConfig(src, name, hcl.InitialPos)
	if diags.HasErrors() || f == nil {
		return "it is no HCL"
	}
	body, is := f.Body.(*hclsyntax.Body)
	if !is {
		return "it is no HCL"
	}
	words := map[Kind]string{}
	for kind, schema := range map[Kind]*block{KindMesh: meshSchemaOnce(), KindServer: serverSchemaOnce(), KindAgent: agentSchemaOnce()} {
		if words[kind] = strangerIn(body, schema, 1); words[kind] == "" {
			return ""
		}
	}
	if why := words[kindOf(name, src)]; why != "" {
		return why
	}
	return words[KindServer] // what a server and an agent both know is in it
}

// strangerIn names what a schema does not have in a body, down to a depth.
func strangerIn(body *hclsyntax.Body, schema *block, depth int) string {
	var names []string
	for name := range body.Attributes {
		if schema.attrNamed(name) == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	if len(names) > 0 {
		return fmt.Sprintf("it says %s = …", names[0])
	}
	for _, b := range body.Blocks {
		inner := schema.blockNamed(b.Type)
		if inner == nil || len(b.Labels) != inner.labels() {
			return fmt.Sprintf("it says %s {", strings.Join(append([]string{b.Type}, shownAll(b.Labels)...), " "))
		}
		if depth > 0 {
			if why := strangerIn(b.Body, inner, depth-1); why != "" {
				return why + " in a block " + b.Type
			}
		}
	}
	return ""
}

func shownAll(all []string) []string {
	var out []string
	for _, s := range all {
		out = append(out, shownText(s))
	}
	return out
}

// saysMesh tells whether a file has anything of a mesh file on its outermost level.
func saysMesh(name string, src []byte) bool {
	attrs, blocks := topNames(name, src)
	return slices.ContainsFunc(attrs, func(a string) bool { return meshSchemaOnce().attrNamed(a) != nil }) ||
		slices.ContainsFunc(blocks, func(b string) bool { return meshSchemaOnce().blockNamed(b) != nil })
}

// strays puts one error in place of all that are in a settings file among mesh files.
func strays(files map[string][]byte, diags Diagnostics) Diagnostics {
	settings := map[string]Kind{}
	for _, d := range diags {
		if src, is := files[d.File]; is && d.Code == codePlace {
			if kind := kindOf(d.File, src); kind != KindMesh && !saysMesh(d.File, src) {
				settings[d.File] = kind
			}
		}
	}
	if len(settings) == 0 {
		return diags
	}
	var out Diagnostics
	said := map[string]bool{}
	for _, d := range diags {
		kind, is := settings[d.File]
		if !is {
			out = append(out, d)
			continue
		}
		if d.Code != codePlace || said[d.File] {
			continue
		}
		said[d.File] = true
		whose := map[Kind]string{KindServer: "a server's settings", KindAgent: "an agent's settings", KindNone: "settings"}[kind]
		d.Message, d.Related = "a file of "+whose+" is among the mesh files", nil
		d.Fix = "Move it out of this directory: settings are in /etc/kerege.d, mesh files in /etc/kerege.d/mesh."
		out = append(out, d)
	}
	return out
}
