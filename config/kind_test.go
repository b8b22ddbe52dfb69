package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestKinds(t *testing.T) {
	dir := t.TempDir()
	want := map[string]Kind{}
	for name, c := range map[string]struct {
		text string
		kind Kind
	}{
		"a.hcl":       {"service \"api\" {}\nname = \"x\"\nroute \"api\" {\n", KindMesh}, // however broken
		"b.hcl":       {"mesh = [\"/x\"]\nconsul {}\n", KindServer},
		"c.hcl":       {"mesh {\n  trust_domain = \"x.y\"\n}\n", KindMesh},
		"d.hcl":       {"retry_join = [\"a:1\"]\nnam = \"x\"\n", KindAgent},
		"e.hcl":       {"consul {}\n", KindNone},
		"agent-1.hcl": {"consul {}\n", KindAgent},
		"agent.hcl":   {"name = \"x\"\n", KindAgent}, // a server's word
		"agents.hcl":  {"service \"agents\" {}\n", KindMesh},
		"server.hcl":  {"nonsense = 1\n", KindServer},
		"f.hcl":       {"nonsense = 1\n", KindMesh},
		"g.json":      {`{"mesh": ["/x"], "log_level": "info"}`, KindServer},
		"h.json":      {`{"mesh": {"mtls": "strict"}}`, KindMesh},
		"i.json":      {`{"node": "vm-1"}`, KindAgent},
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		want[path] = c.kind
	}
	got, diags := Kinds(dir)
	if len(diags) > 0 || len(got) != len(want) {
		t.Errorf("%d of %d files: %v", len(got), len(want), diags)
	}
	for path, kind := range want {
		if got[path] != kind {
			t.Errorf("%s is %q, want %q", filepath.Base(path), got[path], kind)
		}
	}
	if _, diags := Kinds(dir + "/absent"); !diags.HasErrors() {
		t.Error("an absent directory is nothing to speak of")
	}
}

// A name that people say of the other process is answered with this one's.
func TestNamesOfTheOtherProcess(t *testing.T) {
	for text, want := range map[string]string{
		"name = \"vm-1\"\n":        "node = …",
		"server = \"a:7401\"\n":    "retry_join",
		"addresses {}\n":           "server.hcl",
		"retry_jion = [\"a:1\"]\n": `"retry_join"`,
	} {
		if _, diags := LoadAgentBytes(map[string][]byte{"agent.hcl": []byte(text)}); len(diags) != 1 || !strings.Contains(diags[0].Fix, want) || diags[0].Line != 1 {
			t.Errorf("%q: %v", text, rendered(diags))
		}
	}
	if _, diags := LoadServerBytes(map[string][]byte{"server.hcl": []byte("node = \"cp-1\"\n")}); len(diags) != 1 || !strings.Contains(diags[0].Fix, "name = …") {
		t.Errorf("%v", rendered(diags))
	}
}
