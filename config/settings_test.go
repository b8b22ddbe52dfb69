package config

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func write(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestSettingsMerge(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "agent.hcl", "node = \"vm-1\"\nenvoy { user = \"proxy\" }\nconsul {\n  address = \"10.0.0.1:8500\"\n  token   = \"s3cr3t\"\n}\nworkload \"web\" { user = \"web\" }\n")
	write(t, dir, "server.hcl", "first_grace = \"0s\"\nmesh = [\"/srv/mesh\"]\nca { leaf_ttl = \"1h\" }\n")
	write(t, dir, "common.hcl", "log_level = \"debug\"\nrun_dir = \"/run/a\"\n")
	write(t, dir, "zz.json", `{"run_dir": "/run/b", "consul": {"address": "10.0.0.2:8500", "token_file": "/etc/kerege.d/secrets/consul"}}`)
	if err := os.Mkdir(filepath.Join(dir, "mesh"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "mesh"), "a.hcl", "service \"x\" {}\n")

	a, diags := LoadAgent(dir)
	if len(diags) > 0 {
		t.Fatal(rendered(diags))
	}
	if a.Node != "vm-1" || a.RunDir != "/run/b" || a.Log.Level != "debug" || len(a.Workloads) != 1 || a.Envoy.User != "proxy" || a.Workloads[0].User != "web" {
		t.Errorf("got %+v", a)
	}
	if a.Consul.Address != "10.0.0.2:8500" || a.Consul.Token != "" || a.Consul.TokenFile == "" {
		t.Errorf("the later block does not replace the earlier one whole: %+v", a.Consul)
	}
	s, diags := LoadServer(dir)
	if len(diags) > 0 {
		t.Fatal(rendered(diags))
	}
	if s.FirstGrace != 0 || s.MeshPaths[0] != "/srv/mesh" || s.CA.LeafTTL != time.Hour || s.CA.RootTTL != 3650*24*time.Hour || s.Consul == nil {
		t.Errorf("got %+v", s)
	}
}

func TestSettingsDefaults(t *testing.T) {
	s, diags := LoadServerBytes(nil)
	if len(diags) > 0 {
		t.Fatal(rendered(diags))
	}
	host, _ := os.Hostname()
	if s.Name != host || s.DataDir != "/var/lib/kerege/server" || s.RunDir != "/run/kerege" || s.Addresses.GRPC != ":7401" || s.Addresses.HTTPS != ":7402" ||
		s.Consul != nil || s.MeshPaths[0] != "/etc/kerege.d/mesh" || s.FirstGrace != 30*time.Second || s.CA.LeafTTL != 24*time.Hour {
		t.Errorf("got %+v", s)
	}
	a, diags := LoadAgentBytes(nil)
	if len(diags) > 0 {
		t.Fatal(rendered(diags))
	}
	if a.Node != host || a.DataDir != "/var/lib/kerege/agent" || a.Envoy.Path != "envoy" || a.Envoy.DrainDelay != 5*time.Second ||
		!a.DNS.Enabled || a.DNS.Address != "127.0.0.1:15053" || a.DNS.Domain != "mesh" || a.Capture.OnEnvoyDown != "closed" || a.Metrics != "none" {
		t.Errorf("got %+v", a)
	}
}

func TestSettingsRefused(t *testing.T) {
	for text, want := range map[string]string{
		`retry_joi = ["a:1"]`:                                  `Did you mean "retry_join"?`,
		`retry_join = ["a"]`:                                   "is no host:port",
		`service "x" {}`:                                       "below /etc/kerege.d/mesh",
		`first_grace = "1s"`:                                   "Move it to server.hcl",
		`workload "web" { user = "root" }`:                     "all of root's traffic",
		`workload "web" { user = "0" }`:                        "all of root's traffic",
		`envoy { user = "0" }`:                                 "out of the capture",
		`workload "web" { unit = "web" }`:                      "does not name a service",
		"workload \"web\" {\n user = \"w\"\n netns = \"w\"\n}": "user and netns exclude each other",
		`workload "Web" {}`:                                    "upper-case letter",
		`capture { exclude_addresses = ["10.0.0.1/8"] }`:       `Write "10.0.0.0/8"`,
		`capture { never_capture_ports = [0] }`:                "from 1 to 65535",
		"consul {\n token = \"a\"\n token_file = \"/a\"\n}":    "token and token_file exclude each other",
		`consul { cert_file = "/a" }`:                          "belong together",
		`data_dir = "var"`:                                     "is no absolute path",
		`metrics = "7405"`:                                     "is no address to listen on",
		`log_level = "warning"`:                                `Did you mean "warn"?`,
		`join {}`:                                              "join needs token_file",
	} {
		a, diags := LoadAgentBytes(map[string][]byte{"agent.hcl": []byte(text + "\n")})
		if a != nil || !strings.Contains(rendered(diags), want) {
			t.Errorf("%s: want %q, got\n%s", text, want, rendered(diags))
		}
	}
	_, diags := LoadServerBytes(map[string][]byte{"server.hcl": []byte("ca { leaf_ttl = \"4000d\" }\n")})
	if !strings.Contains(rendered(diags), "outlive its issuer") {
		t.Errorf("got\n%s", rendered(diags))
	}
}

// TestSecretsStaySecret plants a token and looks for it in everything printed.
func TestSecretsStaySecret(t *testing.T) {
	const canary = "c4n4ry-t0ken"
	a, diags := LoadAgentBytes(map[string][]byte{"agent.hcl": []byte("consul { token = \"" + canary + "\" }\n")})
	if len(diags) > 0 || a.Consul.Token.Reveal() != canary {
		t.Fatal(rendered(diags))
	}
	out, err := json.Marshal(a)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{string(out), fmt.Sprint(a.Consul.Token), fmt.Sprintf("%v %+v %#v %s %q", *a.Consul, *a.Consul, *a.Consul, a.Consul.Token, a.Consul.Token)} {
		if strings.Contains(s, canary) {
			t.Errorf("printed: %s", s)
		}
	}
	for _, text := range []string{
		"consul {\n  token = \"" + canary + "\"\n  token = \"" + canary + "\"\n}\n",
		"consul {\n  token = [\"" + canary + "\"]\n}\n",
		"consul {\n  tokn = 1\n  token = \"" + canary + "\" x\n}\n",
		"consul { token = " + canary + " }\n",
		"consul { token = \"" + canary + "\\d\" }\n",
	} {
		_, diags := LoadAgentBytes(map[string][]byte{"agent.hcl": []byte(text)})
		js, _ := json.Marshal(diags)
		if len(diags) == 0 || strings.Contains(rendered(diags)+string(js), canary) {
			t.Errorf("%q: got\n%s", text, rendered(diags))
		}
	}
}
