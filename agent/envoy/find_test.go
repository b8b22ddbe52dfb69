package envoy

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// program writes a shell script and returns its path.
func program(t *testing.T, dir, name, script string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestFindEnvoyPrefersTheFlag(t *testing.T) {
	dir := t.TempDir()
	flag, env, onPath := program(t, dir, "flag", ""), program(t, dir, "env", ""), program(t, dir, "envoy", "")
	t.Setenv("PATH", dir)
	t.Setenv("ENVOY", env)
	if p, err := FindEnvoy(flag); p != flag || err != nil {
		t.Error(p, err)
	}
	if p, err := FindEnvoy(""); p != env || err != nil {
		t.Error(p, err)
	}
	t.Setenv("ENVOY", "")
	if p, err := FindEnvoy(""); p != onPath || err != nil {
		t.Error(p, err)
	}
	if _, err := FindEnvoy("/nowhere/envoy"); err == nil || !strings.Contains(err.Error(), "-envoy") {
		t.Error(err)
	}
	t.Setenv("PATH", "/nowhere")
	if _, err := FindEnvoy(""); err == nil || !strings.Contains(err.Error(), "install Envoy 1.40.0") {
		t.Error(err)
	}
}

func TestAnOldEnvoyIsRefused(t *testing.T) {
	dir := t.TempDir()
	for text, want := range map[string]string{
		"envoy  version: 9e558/1.40.0/Clean/RELEASE/BoringSSL":     "",
		"envoy  version: 9e558/1.41.2-dev/Clean/RELEASE/BoringSSL": "",
		"envoy  version: 9e558/2.0.0/Clean/RELEASE/BoringSSL":      "",
		"envoy  version: 9e558/1.39.9/Clean/RELEASE/BoringSSL":     "1.39.9",
		"something else": "not what Envoy answers",
	} {
		err := Check(t.Context(), program(t, dir, "envoy", "echo '"+text+"'\n"))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
