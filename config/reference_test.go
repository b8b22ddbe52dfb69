package config

import (
	"slices"
	"strings"
	"testing"
)

// TestReference holds the generated pages to the schema.
func TestReference(t *testing.T) {
	golden(t, "../docs/reference/language.md", []byte(LanguageReference()))
	golden(t, "../docs/reference/settings.md", []byte(SettingsReference()))
}

// TestSchema holds the schema to the language's laws of layout.
func TestSchema(t *testing.T) {
	labels := map[string]int{}
	var walk func(b *block, path string)
	walk = func(b *block, path string) {
		if n, ok := labels[b.name]; ok && n != b.labels() && path != b.name {
			t.Errorf("%s has %d labels here and %d elsewhere", path, b.labels(), n)
		}
		labels[b.name] = b.labels()
		var names []string
		for _, a := range b.attrs {
			if a.doc == "" || !strings.HasSuffix(a.doc, ".") && !strings.HasSuffix(a.doc, ",") {
				t.Errorf("%s.%s: the text is no sentence: %q", path, a.name, a.doc)
			}
			if a.typ.name == "" || a.typ.example == "" {
				t.Errorf("%s.%s: a type without name or example", path, a.name)
			}
			if a.required && a.def != "" {
				t.Errorf("%s.%s is required and has a default", path, a.name)
			}
			names = append(names, a.name)
		}
		for _, x := range b.blocks {
			names = append(names, x.name)
			if x.doc == "" {
				t.Errorf("%s %s: no text", path, x.name)
			}
			walk(x, path+" "+x.name)
		}
		slices.Sort(names)
		if len(slices.Compact(slices.Clone(names))) != len(names) {
			t.Errorf("%s: a name twice in %v", path, names)
		}
		for _, n := range names {
			if n != strings.ToLower(n) || strings.Contains(n, "-") {
				t.Errorf("%s.%s is not snake_case", path, n)
			}
		}
	}
	for _, root := range []*block{meshSchema(), serverSchema(), agentSchema()} {
		labels = map[string]int{}
		walk(root, root.name)
	}
}

// TestCodes holds the list of codes to those in use: each once, in order.
func TestCodes(t *testing.T) {
	var last string
	for _, c := range Codes() {
		if c.Code <= last || !strings.HasPrefix(c.Code, "KRG1") || c.Meaning == "" {
			t.Errorf("%+v after %s", c, last)
		}
		last = c.Code
	}
}
