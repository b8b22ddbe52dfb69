package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/kerege/kerege/e2e/lab"
	"github.com/kerege/kerege/e2e/nomad"
	"github.com/kerege/kerege/e2e/parts"
	"github.com/kerege/kerege/e2e/town"
)

// client is the story's one client of a real Nomad, with a real Consul beside it.
type client struct {
	*story
	nomad *nomad.Agent
}

// tellNomad tells of two services of one job, from the shipped job files to an empty node.
func tellNomad(ctx context.Context) (err error) {
	c := &client{story: newStory()}
	fmt.Println("kerege demo: a Nomad job in the mesh, under a real Nomad and a real Consul, with the shipped job files")
	fmt.Println("touches: folders laid over /etc, /usr/local and /var/lib inside a namespace of its own, cgroups of Nomad's tasks; nothing else on this machine")
	defer func() {
		if c.nomad != nil {
			if left := c.nomad.Close(); left != nil {
				err = fmt.Errorf("cleaning up: %w (%v)", left, err)
			}
		}
	}()
	for _, chapter := range []func(context.Context) error{c.install, c.start, c.run, c.stopped} {
		if err := chapter(ctx); err != nil {
			return err
		}
	}
	fmt.Printf("\nAll of it was so. %.0f s.\n", time.Since(c.began).Seconds())
	return nil
}

// quiet runs a line and shows nothing of it.
func (c *client) quiet(ctx context.Context, line string) (string, error) {
	cmd := exec.CommandContext(ctx, "sh", "-ec", line)
	cmd.Env = append(os.Environ(), "PATH=/usr/local/bin:"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		return "", ctx.Err()
	}
	if err != nil {
		return string(out), fmt.Errorf("`%s`: %w: %s", line, err, strings.TrimSpace(string(out)))
	}
	return string(out), nil
}

// typed runs a line and shows it with what it prints.
func (c *client) typed(ctx context.Context, line string) (string, error) {
	fmt.Printf("    %-14s  # %s\n", "n1", line)
	out, err := c.quiet(ctx, line)
	for l := range strings.Lines(out) {
		c.note("%s", strings.TrimRight(l, "\n"))
	}
	return out, err
}

// retried runs a line until it succeeds and its answer is as wanted, at most for 90 s.
func (c *client) retried(ctx context.Context, what, line string, ok func(string) bool) (out string, err error) {
	err = lab.Until(ctx, 90*time.Second, what, func() error {
		got, err := c.quiet(ctx, line)
		if err != nil {
			return err
		}
		if out = got; !ok(got) {
			return errors.New(got)
		}
		return nil
	})
	return out, err
}

// answered takes whatever a command says, if it succeeds.
func answered(string) bool { return true }

func (c *client) install(ctx context.Context) error {
	c.begin("What an operator installs on a client of Nomad")
	for _, dir := range []string{"/etc", "/usr/local", "/var/lib"} {
		up := filepath.Join("/run/laid", dir)
		if err := errors.Join(os.MkdirAll(up+"/up", 0o755), os.MkdirAll(up+"/work", 0o755)); err != nil {
			return fmt.Errorf("laying a folder over %s: %w", dir, err)
		}
		if err := syscall.Mount("overlay", dir, "overlay", 0, "lowerdir="+dir+",upperdir="+up+"/up,workdir="+up+"/work"); err != nil {
			return fmt.Errorf("laying a folder over %s: %w", dir, err)
		}
	}
	envoy, err := parts.Find("envoy")
	if err != nil {
		return err
	}
	cli, err := parts.Find("nomad")
	if err != nil {
		return err
	}
	if _, err := c.quiet(ctx, fmt.Sprintf(`install -D -t /usr/local/bin bin/kerege bin/app
cp %s /usr/local/bin/envoy
ln -sf %s /usr/local/bin/nomad
echo "nameserver 10.0.0.2" > /etc/resolv.conf
mkdir -p /etc/kerege.d/mesh`, envoy, cli)); err != nil {
		return err
	}
	if _, err := c.typed(ctx, "useradd --system --no-create-home kerege-envoy"); err != nil {
		return err
	}
	text := "mesh {\n  default_intention = \"deny\"\n}\n\n" + allowWeb
	c.hcl("/etc/kerege.d/mesh/mesh.hcl", text)
	if err := os.WriteFile("/etc/kerege.d/mesh/mesh.hcl", []byte(text), 0o644); err != nil {
		return fmt.Errorf("writing the mesh: %w", err)
	}
	began := time.Now()
	if c.nomad, err = nomad.Start(nomad.Options{CNI: true, Consul: true}); err != nil {
		return err
	}
	c.claim("Nomad and Consul are up after %.1f s", time.Since(began).Seconds())
	return nil
}

func (c *client) start(ctx context.Context) error {
	c.begin("kerege's server and agent are jobs, too")
	if _, err := c.typed(ctx, "nomad job run -detach -var node=n1 nomad-jobs/server.nomad.hcl"); err != nil {
		return err
	}
	if _, err := c.retried(ctx, "the server", "kerege services", answered); err != nil {
		return err
	}
	if _, err := c.typed(ctx, `nomad job run -detach -var 'servers=["`+nomad.HostAddress+`:7401"]' nomad-jobs/agent.nomad.hcl`); err != nil {
		return err
	}
	const join = "kerege token create -node n1 | kerege join -"
	fmt.Printf("    %-14s  # %s\n", "n1", join)
	out, err := c.retried(ctx, "the agent's join", join, answered)
	if err != nil {
		return err
	}
	first, _, _ := strings.Cut(strings.TrimSpace(out), "\n")
	c.claim("%s", first)
	return nil
}

func (c *client) run(ctx context.Context) error {
	c.begin("One job: web calls http://api.mesh:8080; both are registered in Consul, without a connect block")
	began := time.Now()
	if _, err := c.typed(ctx, "nomad job run -detach nomad-jobs/web-api.nomad.hcl"); err != nil {
		return err
	}
	const task = "nomad alloc exec -i=false -t=false -group %s -task %s -job web-api "
	const curl = "curl -sS -o /dev/null -w %%{http_code} http://%s.mesh:8080/"
	web, api := fmt.Sprintf(task, "web", "web"), fmt.Sprintf(task, "api", "api")
	call := web + fmt.Sprintf(curl, "api")
	if _, err := c.retried(ctx, "a first call", call, func(s string) bool { return s == "200" }); err != nil {
		return err
	}
	c.claim("%.1f s after `nomad job run`, web's call is answered", time.Since(began).Seconds())
	if _, err := c.typed(ctx, call); err != nil {
		return err
	}
	back := api + fmt.Sprintf(curl, "web")
	if _, err := c.retried(ctx, "a refusal", back, func(s string) bool { return s == "403" }); err != nil {
		return err
	}
	if _, err := c.typed(ctx, back); err != nil {
		return err
	}
	c.claim("api may not call web: nobody wrote that it may")
	if _, err := c.retried(ctx, "all three in the mesh", "COLUMNS=300 kerege status | grep ^hosts", func(s string) bool {
		return strings.Count(s, "api/") == 2 && strings.Count(s, "web/") == 1
	}); err != nil {
		return err
	}
	if _, err := c.typed(ctx, "kerege node list"); err != nil {
		return err
	}
	const load = "nsenter --net=/run/netns/$(nomad job allocs -json web-api | python3 -c 'import json,sys; print(next(a[\"ID\"] for a in json.load(sys.stdin) if a[\"TaskGroup\"] == \"web\"))') app load -rate 50 -for 4s -url http://api.mesh:8080/"
	out, err := c.quiet(ctx, load)
	if err != nil {
		return err
	}
	var r town.Report
	if err := json.Unmarshal([]byte(out), &r); err != nil {
		return fmt.Errorf("reading what was counted: %w", err)
	}
	if r.Failed > 0 || r.ByCode["200"] != r.Calls || r.Calls < 100 {
		return fmt.Errorf("calls of web: %+v", r)
	}
	c.claim("%d calls from inside web's allocation, none failed", r.Calls)
	return nil
}

func (c *client) stopped(ctx context.Context) error {
	c.begin("And out again")
	if _, err := c.typed(ctx, "nomad job stop -detach web-api"); err != nil {
		return err
	}
	if _, err := c.retried(ctx, "an empty node", "kerege capture status || true", func(s string) bool { return !strings.Contains(s, "/run/netns/") }); err != nil {
		return err
	}
	c.claim("nothing is captured any more")
	return nil
}
