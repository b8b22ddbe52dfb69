package config

import (
	"strings"
	"testing"
)

func TestForeign(t *testing.T) {
	for text, want := range map[string]string{
		"service \"api\" {\n  protocol = \"http\"\n}\nroute \"api\" {}\n": "",
		"mesh {}\n": "", "mesh = [\"/x\"]\nconsul {}\n": "", "node = \"vm-1\"\nretry_join = []\n": "", "# nothing\n": "",
		"job \"web\" {\n  group \"g\" {}\n}\n":                          `it says job "web" {`,
		"resource \"a\" \"b\" {}\n":                                     `it says resource "a" "b" {`,
		"data_dir = \"/x\"\nserver = true\n":                            "it says server = …",
		"service \"web\" {\n  policy = \"write\"\n}\n":                  "it says policy = … in a block service",
		"service {\n  name = \"web\"\n  port = 80\n}\n":                 "it says service {",
		"service \"api\" {}\nintetion \"api\" {}\n":                     `it says intetion "api" {`,
		"data_dir = \"/x\"\nserver {\n  enabled = true\n}\nclient {}\n": "it says",
		"service {": "no HCL",
	} {
		if got := Foreign("x.hcl", []byte(text)); (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%q: %q, want %q", text, got, want)
		}
	}
}

func TestSettingsAmongMeshFilesAreOneError(t *testing.T) {
	_, diags := LoadBytes(map[string][]byte{
		"m/agent.hcl": []byte("node = \"vm-1\"\nlog_level = \"info\"\nretry_join = [\"a:1\"]\ndns {}\nenvoy {\n  drain_delay = \"1s\"\n}\ncapture {}\n"),
		"m/mesh.hcl":  []byte("service \"api\" {\n  protokol = \"http\"\n}\n"),
	})
	if len(diags) != 2 || !strings.Contains(diags[0].Message, "a file of an agent's settings is among the mesh files") || !strings.Contains(diags[0].Fix, "/etc/kerege.d") || diags[1].File != "m/mesh.hcl" {
		t.Errorf("%d: %+v", len(diags), diags)
	}
	_, diags = LoadBytes(map[string][]byte{"m/mesh.hcl": []byte("log_level = \"info\"\nservice \"api\" {}\n")})
	if len(diags) != 1 || !strings.Contains(diags[0].Fix, "agent.hcl or server.hcl") {
		t.Errorf("%+v", diags)
	}
}

func TestASubsetThatMatchesNoneOfTheFilesOwn(t *testing.T) {
	m, diags := LoadBytes(map[string][]byte{"m.hcl": []byte(`service "api" {
  subset "v1" { filter = "Service.Meta.version == v1" }
  subset "v2" { filter = "Service.Meta.version == v2" }
  instance "a" {
    address = "10.0.0.1"
    port    = 80
    meta    = { version = "v1" }
  }
}
`)})
	if m == nil {
		t.Fatalf("%+v", diags)
	}
	slips, _ := Slips(m)
	if len(slips) != 1 || !strings.Contains(slips[0].Message, `subset "v2" of "api" matches none`) {
		t.Errorf("%+v", slips)
	}
}
