package config

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// nestings are texts whose depth overflows the stack of a recursive parser.
func nestings(n int) map[string][]byte {
	r := func(s string) string { return strings.Repeat(s, n) }
	return map[string][]byte{
		"parens.hcl":    []byte("a = " + r("(")),
		"brackets.hcl":  []byte("a = " + r("[") + r("]")),
		"braces.hcl":    []byte("a = " + r("{")),
		"blocks.hcl":    []byte(r("a {\n")),
		"interp.hcl":    []byte("a = " + r(`"${`)),
		"control.hcl":   []byte(`a = "` + r(`%{if x}`) + `"`),
		"not.hcl":       []byte("a = " + r("!") + "x"),
		"minus.hcl":     []byte("a = " + r("-") + "1"),
		"question.hcl":  []byte("a = " + r("a ? b : ")),
		"plus.hcl":      []byte("a = " + r("1 + ") + "1"),
		"heredoc.hcl":   []byte("a = <<EOT\n" + r("${") + "\nEOT\n"),
		"mixed.hcl":     []byte("a = " + r("[{a=(")),
		"brackets.json": []byte(`{"a": ` + r("[") + r("]") + `}`),
		"objects.json":  []byte(r(`{"a":`)),
		"strings.json":  []byte(`{"a": "` + r(`${`) + `"}`),
	}
}

// TestDeepNesting runs the texts in a process of its own: an overflow of the
// stack cannot be recovered from, and would take all tests with it.
func TestDeepNesting(t *testing.T) {
	if dir := os.Getenv("KEREGE_TEST_DEEP"); dir != "" {
		for name := range nestings(0) {
			m, diags := Load(filepath.Join(dir, name))
			if m != nil || !diags.HasErrors() {
				t.Errorf("%s was accepted", name)
			}
			src, err := os.ReadFile(filepath.Join(dir, name))
			if err != nil {
				t.Fatal(err)
			}
			_ = Format(name, src)
		}
		return
	}
	dir := t.TempDir()
	for name, src := range nestings(100_000) {
		if err := os.WriteFile(filepath.Join(dir, name), src, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestDeepNesting$")
	cmd.Env = append(os.Environ(), "KEREGE_TEST_DEEP="+dir, "GOMEMLIMIT=256MiB")
	start := time.Now()
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%.2000s", err, out)
	}
	if took := time.Since(start); took > 20*time.Second {
		t.Errorf("refusing took %v", took)
	}
}

func TestDepthIsNamed(t *testing.T) {
	for _, name := range []string{"parens.hcl", "brackets.hcl", "blocks.hcl", "mixed.hcl", "brackets.json"} {
		_, diags := LoadBytes(map[string][]byte{name: nestings(1000)[name]})
		if len(diags) != 1 || diags[0].Code != codeLimit || !strings.Contains(diags[0].Message, "128 deep") {
			t.Errorf("%s:\n%s", name, rendered(diags))
		}
	}
	ok := "test \"t\" {\n  request {\n from = \"a\"\n to = \"b\"\n }\n expect {}\n}\n"
	if _, diags := LoadBytes(map[string][]byte{"a.hcl": []byte(ok)}); len(diags) > 0 {
		t.Errorf("a shallow text:\n%s", rendered(diags))
	}
}

func TestLimits(t *testing.T) {
	dir := t.TempDir()
	huge := filepath.Join(dir, "huge.hcl")
	f, err := os.Create(huge)
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Truncate(50 << 20); err != nil {
		t.Fatal(err)
	}
	f.Close()
	start := time.Now()
	_, diags := Load(huge)
	if took := time.Since(start); took > time.Second {
		t.Errorf("refusing 50 MiB took %v", took)
	}
	wantOne(t, diags, codeLimit, "the file has 52428800 bytes, more than 4194304")

	for name, c := range map[string]struct{ src, want string }{
		"a heredoc":     {"a = <<EOT\n" + strings.Repeat("aaaaaaa\n", 10_000) + "EOT\n", "more than 65536 bytes"},
		"a string":      {`a = "` + strings.Repeat("a", 70_000) + `"`, "more than 65536"},
		"tokens":        {strings.Repeat("a=1\n", 200_000), "more than 400000 names"},
		"an open text":  {"a = \"b\nc = 1\n", "not closed on its line"},
		"a BOM":         {"\xef\xbb\xbfmesh {}", "byte order mark"},
		"bad UTF-8":     {"a = \"\xff\"", "not UTF-8"},
		"a control":     {"a = \"\x1b[31m\"", "control character"},
		"single quotes": {"a = 'b'", "does not begin a text"},
		"a NUL":         {"a = 1\x00", "control character"},
		"a comment":     {"/* a", "never closed"},
	} {
		_, diags := LoadBytes(map[string][]byte{"a.hcl": []byte(c.src)})
		t.Run(name, func(t *testing.T) { wantOne(t, diags, "", c.want) })
	}
}

func TestTooManyBlocks(t *testing.T) {
	files := map[string][]byte{}
	for _, name := range []string{"a.hcl", "b.hcl", "c.hcl", "d.hcl"} {
		files[name] = []byte(strings.Repeat("x {}\n", 70_000))
	}
	_, diags := LoadBytes(files)
	if !strings.Contains(rendered(diags), "more than 250000 blocks") {
		t.Errorf("got\n%.500s", rendered(diags))
	}
	if len(diags) > maxDiagnostics+1 {
		t.Errorf("%d diagnostics", len(diags))
	}
}

func wantOne(t *testing.T, diags Diagnostics, code, want string) {
	t.Helper()
	if len(diags) != 1 || code != "" && diags[0].Code != code || !strings.Contains(diags[0].Message, want) {
		t.Errorf("want %s %q, got\n%.1000s", code, want, rendered(diags))
	}
}

// FuzzPrescan holds the scanner against hcl's own lexer: what it lets through
// has no template and no more depth than it counted.
func FuzzPrescan(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, src []byte) {
		if len(src) > 1<<16 {
			return
		}
		if _, diags := Prescan("a.hcl", src); diags.HasErrors() {
			return
		}
		tokens, _ := hclsyntax.LexConfig(src, "a.hcl", hcl.InitialPos)
		depth := 0
		for _, tok := range tokens {
			switch tok.Type {
			case hclsyntax.TokenTemplateInterp, hclsyntax.TokenTemplateControl, hclsyntax.TokenOParen, hclsyntax.TokenBang, hclsyntax.TokenQuestion:
				t.Fatalf("%s passed the scanner", tok.Type)
			case hclsyntax.TokenOBrace, hclsyntax.TokenOBrack, hclsyntax.TokenOQuote, hclsyntax.TokenOHeredoc:
				depth++
			case hclsyntax.TokenCBrace, hclsyntax.TokenCBrack, hclsyntax.TokenCQuote, hclsyntax.TokenCHeredoc:
				depth--
			}
			if depth > MaxDepth+1 {
				t.Fatal("deeper than the scanner counted")
			}
		}
	})
}

// FuzzLoad feeds any bytes to all readers: diagnostics, never a panic, each
// with a place inside the text, and all of them renderable.
func FuzzLoad(f *testing.F) {
	seed(f)
	f.Fuzz(func(t *testing.T, src []byte) {
		for _, name := range []string{"a.hcl", "a.json"} {
			files := map[string][]byte{name: src}
			m, diags := LoadBytes(files)
			if (m == nil) != diags.HasErrors() {
				t.Fatal("a mesh with errors, or none without")
			}
			_, more := LoadAgentBytes(files)
			_, most := LoadServerBytes(files)
			lines := strings.Count(string(src), "\n") + 1
			for _, d := range append(append(diags, more...), most...) {
				if d.Line < 0 || d.Line > lines || d.Line > 0 && d.Column < 1 {
					t.Fatalf("%+v lies outside the text", d)
				}
			}
			if out := rendered(diags); strings.ContainsAny(out, "\x1b\x07\r") {
				t.Fatalf("control characters in %q", out)
			}
		}
		_ = Format("a.hcl", src)
	})
}

func seed(f *testing.F) {
	f.Helper()
	for _, glob := range []string{"../examples/*/*.hcl", "testdata/*/*.hcl", "testdata/*/*.json"} {
		names, _ := filepath.Glob(glob)
		for _, name := range names {
			src, err := os.ReadFile(name)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(src)
		}
	}
	for _, src := range nestings(150) {
		f.Add(src)
	}
}
