package terraform

import (
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/kerege/kerege/config"
)

// terraform runs the binary in a folder. Without it the test is skipped, and says so.
func terraform(t *testing.T, dir string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command("terraform", args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "TF_IN_AUTOMATION=1", "CHECKPOINT_DISABLE=1")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("terraform %v in %s: %v\n%s%s", args, dir, err, out, stderr(err))
	}
	return out
}

func stderr(err error) []byte {
	if e, is := err.(*exec.ExitError); is {
		return e.Stderr
	}
	return nil
}

func need(t *testing.T) {
	t.Helper()
	if _, err := exec.LookPath("terraform"); err != nil {
		t.Skip("SKIPPED: terraform is not on PATH; its modules were not checked")
	}
}

func TestModules(t *testing.T) {
	need(t)
	terraform(t, "../../terraform", "fmt", "-check", "-recursive")
	for _, dir := range []string{"../../terraform/modules/vm", "../../terraform/examples/two-hosts"} {
		work := copyTree(t, dir)
		terraform(t, work, "init", "-input=false", "-backend=false")
		terraform(t, work, "validate")
		if _, err := os.Stat(filepath.Join(work, "tests")); err == nil {
			terraform(t, work, "test")
		}
	}
}

// What the module writes is what kerege reads.
func TestSettingsParse(t *testing.T) {
	need(t)
	work := copyTree(t, "../../terraform/modules/vm")
	terraform(t, work, "init", "-input=false", "-backend=false")
	settings := func(vars ...string) []byte {
		args := append([]string{"apply", "-auto-approve", "-input=false", "-state=" + filepath.Join(t.TempDir(), "state")}, vars...)
		terraform(t, work, args...)
		var out struct {
			Settings struct{ Value string }
		}
		text := terraform(t, work, "output", "-json", "-state="+args[3][len("-state="):])
		if err := json.Unmarshal(text, &out); err != nil {
			t.Fatal(err)
		}
		return []byte(out.Settings.Value)
	}
	agent, diags := config.LoadAgentBytes(map[string][]byte{"agent.hcl": settings("-var=role=node", "-var=name=vm-12", "-var=join_token=kj_x",
		`-var=servers=["10.0.0.5:7401"]`, `-var=workloads={web="www-data"}`)})
	if diags.HasErrors() || agent.Node != "vm-12" || agent.Join.TokenFile == "" || len(agent.Workloads) != 1 {
		t.Errorf("agent.hcl: %v, %+v", diags, agent)
	}
	server, diags := config.LoadServerBytes(map[string][]byte{"server.hcl": settings("-var=role=server", "-var=name=kerege-1",
		"-var=advertise=kerege-1.example", "-var=consul_address=127.0.0.1:8500")})
	if diags.HasErrors() || server.Name != "kerege-1" || server.Consul == nil || server.Consul.Address != "127.0.0.1:8500" {
		t.Errorf("server.hcl: %v, %+v", diags, server)
	}
}

// The copies of rendered cloud-init, which are applied where there is no terraform,
// are what terraform renders, also with other words in it.
func TestCopiesAreWhatIsRendered(t *testing.T) {
	need(t)
	for role := range Roles {
		path := filepath.Join("testdata", role+".yaml")
		text, _, err := UserData(t.Context(), "../..", role, nil)
		if err != nil {
			t.Fatal(err)
		}
		if *update {
			if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		words := map[string]string{"stand-name": "a-name", "stand-consul": "10.0.0.1", "stand-secret": "6d27", "stand-server": "10.0.0.2",
			"stand-token": "tok.en_1", "stand-service": "a-service", "stand-user": "someone"}
		other, _, err := UserData(t.Context(), "../..", role, words)
		if err != nil {
			t.Fatal(err)
		}
		t.Setenv("PATH", "/nowhere")
		for want, words := range map[string]map[string]string{text: nil, other: words} {
			got, rendered, err := UserData(t.Context(), "../..", role, words)
			if err != nil || rendered || got != want {
				t.Errorf("%s (go test ./e2e/terraform -update): %v\n%s\nterraform renders\n%s", path, err, got, want)
			}
		}
		t.Setenv("PATH", path0)
	}
}

var (
	update = flag.Bool("update", false, "write the copies again")
	path0  = os.Getenv("PATH")
)

// copyTree works on a copy, so that nothing is left in the checkout; the example
// finds the module beside it.
func copyTree(t *testing.T, dir string) string {
	t.Helper()
	root := t.TempDir()
	if err := os.CopyFS(filepath.Join(root, "terraform"), os.DirFS("../../terraform")); err != nil {
		t.Fatal(err)
	}
	rel, err := filepath.Rel("../..", dir)
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(root, rel)
}
