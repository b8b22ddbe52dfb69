package config

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
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

// B5: what is no file is an error at once, also where opening it would wait for ever.
func TestAFifoIsNoFile(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mkfifo(filepath.Join(dir, "mesh.hcl"), 0o600); err != nil {
		t.Fatal(err)
	}
	said := make(chan Diagnostics, 1)
	go func() {
		_, diags := Load(dir)
		said <- diags
	}()
	select {
	case d := <-said:
		if !strings.Contains(rendered(d), "no ordinary file") {
			t.Errorf("%s", rendered(d))
		}
	case <-time.After(5 * time.Second):
		t.Fatal("loading hangs")
	}
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
