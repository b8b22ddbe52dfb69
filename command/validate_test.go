package command

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestValidateKnowsSettings(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	mesh := write("mesh/a.hcl", "service \"api\" {}\nintention \"api\" {\n  allow { from = [\"web\"] }\n}\n")
	slip := write("slip/a.hcl", "service \"api\" {}\nintention \"apj\" {\n  allow { from = [\"web\"] }\n}\n")
	agent := write("etc/agent.hcl", "node = \"vm-1\"\nretry_join = [\"a:7401\"]\n")
	server := write("etc/server.hcl", "mesh = [\""+filepath.Dir(mesh)+"\"]\n")
	wrong := write("wrong/agent.hcl", "name = \"vm-1\"\n")
	mixed := write("mixed/a.hcl", "service \"api\" {}\n")
	write("mixed/b.hcl", "retry_join = [\"a:7401\"]\n")
	astray := write("astray/agent.hcl", "node = \"vm-1\"\nretry_join = [\"a:7401\"]\ndns {}\ncapture {}\n")
	write("astray/mesh.hcl", "service \"api\" {}\n")
	bad := write("bad/server.hcl", "mesh = [\""+filepath.Dir(astray)+"\"]\n")
	both := write("both/a.hcl", "consul {}\n")
	empty := filepath.Join(dir, "empty")
	if err := os.Mkdir(empty, 0o700); err != nil {
		t.Fatal(err)
	}
	write("empty/README.md", "x")
	for _, c := range []struct {
		args string
		code int
		text string
	}{
		{"validate " + filepath.Dir(mesh), 0, "No file here has a block of web: right where a registry has them"},
		{"validate " + filepath.Dir(slip), 2, `Did you mean "api"?`},
		{"validate " + agent, 0, "settings of an agent"},
		{"validate " + server, 0, "settings of a server"},
		{"validate " + filepath.Dir(agent), 0, "Valid: settings of a server in"},
		{"validate " + wrong, 1, "agent.hcl:1:1: there is no argument \"name\" in an agent's settings"},
		{"validate " + wrong, 1, "Write node = …"},
		{"validate " + filepath.Dir(mixed), 1, "Move it out of this directory"},
		{"validate " + filepath.Dir(astray), 1, "1 error."},
		{"validate " + filepath.Dir(astray), 1, "an agent's settings is among the mesh files"},
		{"validate " + bad, 1, "among the mesh files"},
		{"server -check -config " + bad, 1, "among the mesh files"},
		{"validate " + server, 0, "Mesh files: 1 service"},
		{"validate " + both, 1, "Say whose it is"},
		{"validate -settings agent " + both, 0, "settings of an agent"},
		{"validate -settings mesh " + both, 1, "is server or agent"},
		{"validate " + empty, 1, "Looked for files that end in .hcl or .json"},
		{"server -check -config " + server, 0, "1 intention"},
		{"agent -check -config " + agent, 0, "settings of an agent"},
		{"agent -check -config " + wrong, 1, "Write node = …"},
	} {
		var out bytes.Buffer
		if code := Run(strings.Fields(c.args), strings.NewReader(""), &out, &out); code != c.code || !strings.Contains(out.String(), c.text) {
			t.Errorf("kerege %s: exit %d, want %d and %q:\n%s", c.args, code, c.code, c.text, out.String())
		}
	}
}
