//go:build e2e

package consul_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/kerege/kerege/e2e/parts"
	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/registry/consul"
)

// The commands of docs/consul.md, typed as it says.
func TestRealConsulPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/consul.md")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	files := regexp.MustCompile("(?s)```hcl consul\n(.*?)```").FindAllStringSubmatch(string(page), -1)
	if len(files) != 2 {
		t.Fatalf("the page has %d files of Consul's", len(files))
	}
	for i, name := range []string{"kerege.policy.hcl", "api.hcl"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(files[i][1]), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var left []string
	for line := range strings.Lines(string(page)) {
		if command, is := strings.CutPrefix(strings.TrimSpace(line), "$ "); is {
			left = append(left, command)
		}
	}
	a := boot(t, "127.0.0.1", ports(t, "127.0.0.1", 3), settings{
		"acl": settings{"enabled": true, "default_policy": "deny", "tokens": settings{"initial_management": "root", "agent": "root"}}})
	a.ready()
	program := filepath.Dir(parts.Path(t, "consul"))
	try := func() (string, error) {
		cmd := exec.Command("sh", "-ec", left[0])
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "PATH="+program+":"+os.Getenv("PATH"), "CONSUL_HTTP_ADDR="+a.addr, "CONSUL_HTTP_TOKEN=root")
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	next := func(begins string) string {
		t.Helper()
		if len(left) == 0 || !strings.HasPrefix(left[0], begins) {
			t.Fatalf("the page goes on with %q, and the test with %q", left, begins)
		}
		out, err := try()
		if err != nil {
			t.Fatalf("%s: %v\n%s", left[0], err, out)
		}
		left = left[1:]
		return out
	}
	// Its ACLs are up a moment after its leader.
	within(t, 20*time.Second, "the first command", func() bool { _, err := try(); return err == nil })
	left = left[1:]
	secret := regexp.MustCompile(`SecretID: +(\S+)`).FindStringSubmatch(next("consul acl token create"))
	if secret == nil {
		t.Fatal("the second command prints no SecretID")
	}
	e := listen(t, consul.Options{Address: a.addr, Token: text(secret[1])})
	within(t, 20*time.Second, "the first word", e.complete)
	next("consul services register")
	is := func(h mesh.Health) func() bool {
		return func() bool { return e.count("api") == 1 && e.part("api").Instances[0].Health == h }
	}
	within(t, 5*time.Second, "the service, whose check has not passed", is(mesh.Unhealthy))
	in := e.part("api").Instances[0]
	if in.ID != "api-1" || in.Addr.String() != "127.0.0.1:8080" || in.Protocol != mesh.ProtocolHTTP || in.Meta["version"] != "v1" || in.Tags[0] != "stable" || in.Weight != 10 {
		t.Errorf("the page's registration is %+v", in)
	}
	if r := e.src.Report(); r.State != mesh.SourceOK {
		t.Errorf("the page's policy gives %s: %s", r.State, r.Err)
	}
	if err := a.Agent().CheckDeregister("api-1-port"); err != nil {
		t.Fatal(err)
	}
	within(t, 5*time.Second, "it without its check", is(mesh.Healthy))
	next("consul maint -enable")
	within(t, 5*time.Second, "maintenance", is(mesh.Unhealthy))
	next("consul maint -disable")
	within(t, 5*time.Second, "the end of maintenance", is(mesh.Healthy))
	if len(left) > 0 {
		t.Errorf("the page's commands were not all run: %q", left)
	}
}
