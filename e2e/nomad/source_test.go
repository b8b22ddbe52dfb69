//go:build e2e

package nomad_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/api"

	rig "github.com/kerege/kerege/e2e/nomad"
	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/registry/nomad"
)

// ear keeps the last part of each scope, as a hub would.
type ear struct {
	t   *testing.T
	src *nomad.Source

	mu     sync.Mutex
	parts  map[string]mesh.Part
	marked bool
	said   int
}

func listen(t *testing.T, opt nomad.Options) *ear {
	t.Helper()
	opt.Logger = hclog.New(&hclog.LoggerOptions{Level: hclog.Debug, Output: testWriter{t}})
	src, err := nomad.New(opt)
	if err != nil {
		t.Fatal(err)
	}
	e := &ear{t: t, src: src, parts: map[string]mesh.Part{}}
	ctx, stop := context.WithCancel(context.Background())
	out, done := make(chan mesh.Part), make(chan struct{})
	go func() { src.Watch(ctx, out); close(done) }()
	go func() {
		for {
			select {
			case p := <-out:
				e.mu.Lock()
				e.said++
				e.marked = e.marked || p.Scope == ""
				e.parts[p.Scope] = p
				e.mu.Unlock()
			case <-done:
				return
			}
		}
	}()
	t.Cleanup(func() { stop(); <-done })
	within(t, 20*time.Second, "the first word", func() bool {
		e.mu.Lock()
		defer e.mu.Unlock()
		return e.marked
	})
	return e
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimSpace(string(p)))
	return len(p), nil
}

func (e *ear) of(name string) []mesh.Instance {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.parts[name].Instances
}

func (e *ear) healthy(name string) (n int) {
	for _, in := range e.of(name) {
		if in.Health == mesh.Healthy {
			n++
		}
	}
	return n
}

func (e *ear) tagged(name, tag string) (n int) {
	for _, in := range e.of(name) {
		if slices.Contains(in.Tags, tag) {
			n++
		}
	}
	return n
}

func within(t *testing.T, limit time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for !ok() {
		if time.Since(began) > limit {
			t.Fatalf("%s: not within %s", what, limit)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return time.Since(began)
}

func start(t *testing.T, opt rig.Options) *rig.Agent {
	t.Helper()
	a, err := rig.Start(opt)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("nomad: %s", a.Log())
		}
		if err := a.Close(); err != nil {
			t.Error(err)
		}
	})
	return a
}

// job is a service on count web servers; version changes its tasks.
func job(namespace, name string, count, canaries int, version, checks string) string {
	return fmt.Sprintf(`
job %q {
  namespace = %q
  group "g" {
    count = %d
    network {
      port "web" {}
    }
    update {
      canary           = %d
      max_parallel     = 1
      min_healthy_time = "1s"
      healthy_deadline = "30s"
      progress_deadline = "1m"
      health_check     = "task_states"
    }
    service {
      name        = %q
      provider    = "nomad"
      port        = "web"
      tags        = ["stable", "kerege-protocol=http"]
      canary_tags = ["canary"]
      meta {
        kerege-version = "v1"
        track          = "stable"
        index          = "${NOMAD_ALLOC_INDEX}"
      }
      canary_meta {
        track = "canary"
      }
      %s
    }
    task "web" {
      driver       = "raw_exec"
      kill_timeout = "1s"
      config {
        command = "/usr/bin/python3"
        args    = ["-m", "http.server", "--bind", "127.0.0.1", "${NOMAD_PORT_web}"]
      }
      env {
        VERSION = %q
      }
      resources {
        cpu    = 20
        memory = 32
      }
    }
  }
}`, name, namespace, count, canaries, name, checks, version)
}

func run(t *testing.T, a *rig.Agent, text string) {
	t.Helper()
	if err := a.Run(text); err != nil {
		t.Fatal(err)
	}
}

func (e *ear) must(what string, ok bool) {
	e.t.Helper()
	if !ok {
		e.t.Fatalf("%s: %+v", what, e.src.Report())
	}
}

// TestServices has one Nomad for what leaves it as it was.
func TestServices(t *testing.T) {
	a := start(t, rig.Options{})
	t.Run("a job's service comes and goes", func(t *testing.T) { comesAndGoes(t, a) })
	t.Run("canary tags come and go with the promotion", func(t *testing.T) { canaryTags(t, a) })
	t.Run("checks decide the health", func(t *testing.T) { checksDecide(t, a) })
}

func comesAndGoes(t *testing.T, a *rig.Agent) {
	e := listen(t, nomad.Options{Address: a.Addr, CheckEvery: time.Second})

	// Latency is measured from Nomad's own registration of a task that runs.
	run(t, a, job("default", "api", 1, 0, "1", ""))
	registered := time.Time{}
	within(t, 30*time.Second, "nomad's registration", func() bool {
		regs, _, err := a.Services().Get("api", nil)
		registered = time.Now()
		return err == nil && len(regs) == 1
	})
	within(t, 5*time.Second, "the part", func() bool { return len(e.of("api")) == 1 })
	t.Logf("registered in nomad, in a part after %s more", time.Since(registered).Round(time.Millisecond))

	in := e.of("api")[0]
	node, _, err := a.Nodes().List(nil)
	if err != nil {
		t.Fatal(err)
	}
	allocs, _, err := a.Jobs().Allocations("api", true, nil)
	if err != nil || len(allocs) != 1 {
		t.Fatal(allocs, err)
	}
	if in.Node != node[0].Name || in.Workload != allocs[0].ID || in.Source != "nomad" || in.Namespace != "default" || in.Datacenter != "dc1" ||
		in.Protocol != mesh.ProtocolHTTP || in.NodeMeta["rack"] != "r1" || in.Meta["kerege-version"] != "v1" || in.Meta["track"] != "stable" ||
		in.Meta["index"] != "" || !slices.Equal(in.Tags, []string{"kerege-protocol=http", "stable"}) || !in.Addr.IsValid() || in.Health != mesh.Healthy {
		t.Errorf("%+v", in)
	}

	if err := a.Stop("default", "api"); err != nil {
		t.Fatal(err)
	}
	stopped := time.Now()
	within(t, 20*time.Second, "nomad's deregistration", func() bool {
		regs, _, err := a.Services().Get("api", nil)
		registered = time.Now()
		return err == nil && len(regs) == 0
	})
	within(t, 5*time.Second, "the empty part", func() bool { return len(e.of("api")) == 0 })
	t.Logf("job stop to gone: %s, %s of it after nomad itself", time.Since(stopped).Round(time.Millisecond), time.Since(registered).Round(time.Millisecond))
	if r := e.src.Report(); r.State != mesh.SourceOK || r.Healed != 0 {
		t.Errorf("%+v", r)
	}
}

func canaryTags(t *testing.T, a *rig.Agent) {
	e := listen(t, nomad.Options{Address: a.Addr})
	run(t, a, job("default", "api", 2, 1, "1", ""))
	within(t, 30*time.Second, "two stable", func() bool { return e.tagged("api", "stable") == 2 })
	within(t, 30*time.Second, "the first deployment's end", func() bool {
		d, _, err := a.Jobs().LatestDeployment("api", nil)
		return err == nil && d != nil && d.Status == "successful"
	})
	run(t, a, job("default", "api", 2, 1, "2", ""))
	within(t, 30*time.Second, "one canary beside them", func() bool { return e.tagged("api", "canary") == 1 && len(e.of("api")) == 3 })
	for _, in := range e.of("api") {
		if want := map[bool]string{true: "canary", false: "stable"}[slices.Contains(in.Tags, "canary")]; in.Meta["track"] != want {
			t.Errorf("%v has meta %v", in.Tags, in.Meta)
		}
	}
	var id string
	within(t, 30*time.Second, "a healthy canary", func() bool {
		d, _, err := a.Jobs().LatestDeployment("api", nil)
		if err != nil || d == nil || d.TaskGroups["g"] == nil {
			return false
		}
		id = d.ID
		return d.TaskGroups["g"].HealthyAllocs == 1
	})
	if _, _, err := a.Deployments().PromoteAll(id, nil); err != nil {
		t.Fatal(err)
	}
	took := within(t, 30*time.Second, "no canary any more", func() bool { return e.tagged("api", "canary") == 0 && e.tagged("api", "stable") > 0 })
	t.Logf("promotion to no canary tag: %s", took.Round(time.Millisecond))
	within(t, 60*time.Second, "two of the new version", func() bool {
		list := e.of("api")
		return len(list) == 2 && e.healthy("api") == 2 && !slices.ContainsFunc(list, func(in mesh.Instance) bool { return in.Meta["track"] != "stable" })
	})
}

func checksDecide(t *testing.T, a *rig.Agent) {
	e := listen(t, nomad.Options{Address: a.Addr, CheckEvery: time.Second})
	dir := t.TempDir()
	flag := filepath.Join(dir, "ok")
	if err := os.WriteFile(flag, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	text := job("default", "web", 1, 0, "1", `
      check {
        type     = "http"
        path     = "/ok"
        interval = "1s"
        timeout  = "1s"
      }`)
	text = strings.Replace(text, `"127.0.0.1", "$`, `"127.0.0.1", "--directory", "`+dir+`", "$`, 1)
	run(t, a, text)
	within(t, 30*time.Second, "an instance", func() bool { return len(e.of("web")) == 1 })
	if h := e.of("web")[0].Health; h != mesh.Unhealthy {
		t.Errorf("an instance whose check has not run yet has health %d", h)
	}
	within(t, 15*time.Second, "a healthy instance", func() bool { return e.healthy("web") == 1 })
	os.Remove(flag)
	took := within(t, 15*time.Second, "an unhealthy instance", func() bool { return len(e.of("web")) == 1 && e.healthy("web") == 0 })
	t.Logf("the application fails to unhealthy, with a check each second: %s", took.Round(time.Millisecond))
	if err := os.WriteFile(flag, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	within(t, 15*time.Second, "a healthy instance again", func() bool { return e.healthy("web") == 1 })
}

func TestNothingIsLostWhileNomadIsAway(t *testing.T) {
	a := start(t, rig.Options{})
	run(t, a, job("default", "api", 2, 0, "1", ""))
	e := listen(t, nomad.Options{Address: a.Addr})
	within(t, 30*time.Second, "two instances", func() bool { return e.healthy("api") == 2 })
	whole := e.of("api")
	within(t, 5*time.Second, "state ok", func() bool { return e.src.Report().State == mesh.SourceOK })

	if err := a.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	within(t, 15*time.Second, "the report of a Nomad that hangs", func() bool { return e.src.Report().State == mesh.SourceError })
	if err := a.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	within(t, 15*time.Second, "ok again", func() bool { return e.src.Report().State == mesh.SourceOK })

	e.mu.Lock()
	said := e.said
	e.mu.Unlock()
	a.Kill()
	within(t, 10*time.Second, "the report of a dead Nomad", func() bool { return e.src.Report().State == mesh.SourceError })
	time.Sleep(3 * time.Second) // nothing may happen in it
	e.mu.Lock()
	if e.said != said {
		t.Errorf("%d parts were sent of a dead Nomad", e.said-said)
	}
	e.mu.Unlock()
	if got := e.of("api"); len(got) != 2 || got[0].ID != whole[0].ID {
		t.Fatalf("%+v", got)
	}
	if err := a.Boot(); err != nil {
		t.Fatal(err)
	}
	took := within(t, 20*time.Second, "ok again", func() bool { return e.src.Report().State == mesh.SourceOK })
	t.Logf("ok %s after nomad's node was ready again", took.Round(time.Millisecond))
	within(t, 30*time.Second, "two healthy instances", func() bool { return e.healthy("api") == 2 })
	run(t, a, job("default", "late", 1, 0, "1", ""))
	within(t, 30*time.Second, "a service registered since", func() bool { return e.healthy("late") == 1 })
}

func TestATokenThatSeesLessLosesNothing(t *testing.T) {
	a := start(t, rig.Options{ACL: true})
	if _, err := a.Namespaces().Register(&api.Namespace{Name: "team"}, nil); err != nil {
		t.Fatal(err)
	}
	policy := func(rules string) {
		t.Helper()
		if _, err := a.ACLPolicies().Upsert(&api.ACLPolicy{Name: "kerege", Rules: rules}, nil); err != nil {
			t.Fatal(err)
		}
	}
	policy(`namespace "*" { policy = "read" }`)
	token := func() *api.ACLToken {
		t.Helper()
		got, _, err := a.ACLTokens().Create(&api.ACLToken{Name: "kerege", Type: "client", Policies: []string{"kerege"}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	first := token()
	file := filepath.Join(t.TempDir(), "token")
	write := func(s string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(s+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(first.SecretID)
	run(t, a, job("default", "api", 1, 0, "1", ""))
	run(t, a, job("team", "api", 1, 0, "1", ""))
	e := listen(t, nomad.Options{Address: a.Addr, Namespaces: []string{"*"}, TokenFile: file})
	two := func() bool { return len(e.of("api")) == 2 }
	within(t, 30*time.Second, "one of each namespace", two)
	if e.of("api")[0].NodeMeta != nil {
		t.Error("a node's meta was read without the right")
	}

	policy(`namespace "default" { policy = "read" }`)
	run(t, a, job("default", "stir", 1, 0, "1", "")) // has the list answered, without team's services
	within(t, 30*time.Second, "state filtered or denied", func() bool {
		s := e.src.Report().State
		return s == mesh.SourceFiltered || s == mesh.SourceDenied
	})
	t.Logf("narrowed: %+v", e.src.Report())
	within(t, 30*time.Second, "what is still seen", func() bool { return len(e.of("stir")) == 1 })
	e.must("both instances", two())

	if _, err := a.ACLTokens().Delete(first.AccessorID, nil); err != nil {
		t.Fatal(err)
	}
	revoked := time.Now()
	run(t, a, job("default", "stir", 2, 0, "1", ""))
	within(t, 30*time.Second, "state denied", func() bool {
		r := e.src.Report()
		return r.State == mesh.SourceDenied && r.Trouble.After(revoked)
	})
	t.Logf("revoked: %+v", e.src.Report())
	e.must("both instances", two())

	policy(`namespace "*" { policy = "read" }` + "\n" + `node { policy = "read" }`)
	write(token().SecretID)
	took := within(t, 45*time.Second, "ok with the new token", func() bool { return e.src.Report().State == mesh.SourceOK })
	t.Logf("ok %s after the file had the new token", took.Round(time.Millisecond))
	e.must("both instances", two())
	within(t, 30*time.Second, "what came meanwhile", func() bool { return len(e.of("stir")) == 2 })
}
