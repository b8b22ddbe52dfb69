package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// text renders diagnostics for a failing test.
func rendered(d Diagnostics) string {
	var b strings.Builder
	_ = d.WriteText(&b, false)
	return b.String()
}

// examples are the design's own files: they are what the language promises.
func examples(t *testing.T) []string {
	t.Helper()
	var out []string
	for _, glob := range []string{"../examples/*/*.hcl", "../examples/*/*/*.hcl"} {
		found, err := filepath.Glob(glob)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, found...)
	}
	if len(out) < 16 {
		t.Fatalf("only %d examples found", len(out))
	}
	return out
}

func isAgentFile(name string) bool {
	base := filepath.Base(name)
	return base == "agent.hcl" || strings.HasSuffix(base, ".agent.hcl")
}

func TestExamplesLoad(t *testing.T) {
	for _, name := range examples(t) {
		t.Run(name, func(t *testing.T) {
			var diags Diagnostics
			switch {
			case isAgentFile(name):
				_, diags = LoadAgent(name)
			case filepath.Base(name) == "server.hcl":
				_, diags = LoadServer(name)
			default:
				_, diags = Load(name)
			}
			if len(diags) > 0 {
				t.Errorf("diagnostics:\n%s", rendered(diags))
			}
			src, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if !IsFormatted(name, src) {
				t.Error("the file does not format to itself")
			}
		})
	}
}
