// Package terraform renders cloud-init with the module vm, for the tests of the
// modules and for hosts that are made by what is rendered.
package terraform

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Roles are the variables of the module vm by role. What differs from one host to
// the next is a word that begins with stand-, which UserData replaces.
var Roles = map[string]map[string]string{
	"server": {
		"role": "server", "name": "stand-name", "consul_address": "stand-consul:8500", "consul_token": "stand-secret",
		"mesh_files": `{"mesh.hcl" = "mesh {\n  trust_domain = \"prod.example\"\n}\n\ndefaults \"*\" {\n  protocol = \"http\"\n}\n\nintention \"api\" {\n  allow { from = [\"web\"] }\n}\n"}`,
	},
	"node": {
		"role": "node", "name": "stand-name", "servers": `["stand-server:7401"]`, "join_token": "kj_stand-token",
		"workloads": `{"stand-service" = "stand-user"}`, "services": `["stand-service"]`,
	},
}

// UserData is the module's output for a role, with the words that begin with stand- replaced:
// rendered by terraform where it is on PATH, else from the copy in testdata, which
// the test of the modules holds against what terraform renders.
func UserData(ctx context.Context, repository, role string, words map[string]string) (text string, rendered bool, err error) {
	var pairs []string
	for _, k := range slices.Sorted(maps.Keys(words)) {
		pairs = append(pairs, k, words[k])
	}
	fill := strings.NewReplacer(pairs...)
	if _, err := exec.LookPath("terraform"); err == nil {
		text, err := render(ctx, repository, role, fill)
		return text, true, err
	}
	copied, err := os.ReadFile(filepath.Join(repository, "e2e/terraform/testdata", role+".yaml"))
	if err != nil {
		return "", false, fmt.Errorf("reading the copy of a rendered cloud-init: %w", err)
	}
	return fill.Replace(string(copied)), false, nil
}

// render runs terraform on a copy, so that nothing is left in the repository.
func render(ctx context.Context, repository, role string, fill *strings.Replacer) (string, error) {
	work, err := os.MkdirTemp("", "kr-terraform-")
	if err != nil {
		return "", fmt.Errorf("rendering cloud-init: %w", err)
	}
	defer os.RemoveAll(work)
	if err := os.CopyFS(filepath.Join(work, "vm"), os.DirFS(filepath.Join(repository, "terraform/modules/vm"))); err != nil {
		return "", fmt.Errorf("rendering cloud-init: %w", err)
	}
	run := func(args ...string) ([]byte, error) {
		cmd := exec.CommandContext(ctx, "terraform", args...)
		cmd.Dir = filepath.Join(work, "vm")
		cmd.Env = append(os.Environ(), "TF_IN_AUTOMATION=1", "CHECKPOINT_DISABLE=1")
		var said strings.Builder
		cmd.Stderr = &said
		out, err := cmd.Output()
		if err != nil {
			return nil, fmt.Errorf("running terraform %s: %w: %s%s", args[0], err, out, said.String())
		}
		return out, nil
	}
	apply := []string{"apply", "-auto-approve", "-input=false"}
	for _, name := range slices.Sorted(maps.Keys(Roles[role])) {
		apply = append(apply, "-var="+name+"="+fill.Replace(Roles[role][name]))
	}
	for _, args := range [][]string{{"init", "-input=false", "-backend=false"}, apply} {
		if _, err := run(args...); err != nil {
			return "", err
		}
	}
	text, err := run("output", "-json", "user_data")
	if err != nil {
		return "", err
	}
	var out string
	if err := json.Unmarshal(text, &out); err != nil {
		return "", fmt.Errorf("reading terraform's output: %w", err)
	}
	return out, nil
}
