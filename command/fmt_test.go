package command

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestFmtTouchesWhatIsKeregesAlone(t *testing.T) {
	dir := t.TempDir()
	ugly := "service \"api\" {\nprotocol=\"http\"\n}\n"
	job := "job \"web\" {\ngroup \"g\" {}\n}\n"
	files := map[string]string{"mesh/a.hcl": ugly, "mesh/.b.hcl": ugly, "mesh/sub/c.hcl": ugly, "mesh/.git/d.hcl": ugly, "mesh/web.nomad.hcl": job,
		"mesh/consul.hcl": "data_dir=\"/x\"\nserver=true\n", "mesh/e.tf": ugly}
	for name, text := range files {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
	step := func(args string, code int, changed string, says ...string) {
		t.Helper()
		var out, err bytes.Buffer
		if got := Run(strings.Fields(args), strings.NewReader(""), &out, &err); got != code || strings.Join(strings.Fields(out.String()), " ") != changed {
			t.Errorf("kerege %s: exit %d, %q, want %d, %q; %s", args, got, out.String(), code, changed, err.String())
		}
		for _, want := range says {
			if !strings.Contains(err.String(), want) {
				t.Errorf("kerege %s: no %q in %s", args, want, err.String())
			}
		}
	}
	if _, err := os.Stat(defaultMesh); err != nil {
		step("fmt", 1, "", "/etc/kerege.d/mesh, the default where no file or directory is named")
		step("validate", 1, "", "/etc/kerege.d/mesh, the default where no file or directory is named")
	}
	step("fmt -check mesh", 2, "mesh/a.hcl", `not kerege's: mesh/web.nomad.hcl (it says job "web" {)`, "not kerege's: mesh/consul.hcl")
	step("fmt mesh/a.hcl mesh/web.nomad.hcl", 1, "", "mesh/web.nomad.hcl is not a kerege file")
	step("fmt mesh", 0, "")
	step("fmt -recursive mesh", 0, "mesh/sub/c.hcl")
	for name, text := range files {
		now, err := os.ReadFile(filepath.Join(dir, name))
		if want := name == "mesh/a.hcl" || name == "mesh/sub/c.hcl"; err != nil || (string(now) != text) != want {
			t.Errorf("%s: %v\n%s", name, err, now)
		}
	}
}
