//go:build e2e

package nomad_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	nomad "github.com/hashicorp/nomad/api"

	"github.com/kerege/kerege/agent"
	"github.com/kerege/kerege/api"
	rig "github.com/kerege/kerege/e2e/nomad"
	"github.com/kerege/kerege/e2e/parts"
)

// meshed is a Nomad with the jobs of nomad-jobs/, on a file system of its own.
type meshed struct {
	t *testing.T
	a *rig.Agent
}

// host gives the lab folders that the pages write to, laid over the machine's, and
// puts there what an operator installs.
func host(t *testing.T) {
	t.Helper()
	for _, dir := range []string{"/etc", "/usr/local", "/var/lib"} {
		up := filepath.Join("/run/laid", dir)
		sh(t, fmt.Sprintf("mkdir -p %[1]s/up %[1]s/work && mount -t overlay overlay -o lowerdir=%[2]s,upperdir=%[1]s/up,workdir=%[1]s/work %[2]s", up, dir))
		t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	}
	sh(t, `cd ../.. && go build -o /usr/local/bin/kerege . && go build -o /usr/local/bin/app ./e2e/app`)
	sh(t, fmt.Sprintf(`cp %s /usr/local/bin/envoy && ln -sf %s /usr/local/bin/nomad
echo "nameserver 10.0.0.2" > /etc/resolv.conf`, parts.Path(t, "envoy"), parts.Path(t, "nomad")))
	from, err := filepath.Abs("../../nomad-jobs")
	if err != nil {
		t.Fatal(err)
	}
	sh(t, "ln -sfn "+from+" /run/nomad-jobs")
}

// page is docs/nomad.md: the commands that a reader types, and those run so far.
type page struct {
	text string
	left []string
}

func readPage(t *testing.T) *page {
	t.Helper()
	text, err := os.ReadFile("../../docs/nomad.md")
	if err != nil {
		t.Fatal(err)
	}
	p := &page{text: string(text)}
	for line := range strings.Lines(p.text) {
		if command, is := strings.CutPrefix(strings.TrimSpace(line), "$ "); is {
			p.left = append(p.left, command)
		}
	}
	return p
}

// next is the page's next command, which must begin as said.
func (p *page) next(t *testing.T, begins string) string {
	t.Helper()
	if len(p.left) == 0 || !strings.HasPrefix(p.left[0], begins) {
		t.Fatalf("the page goes on with %q, and the test with %q", p.left, begins)
	}
	command := p.left[0]
	p.left = p.left[1:]
	return command
}

// file is what the page says to write.
func (p *page) file(t *testing.T, path string) {
	t.Helper()
	_, rest, found := strings.Cut(p.text, "```hcl "+path+"\n")
	text, _, ends := strings.Cut(rest, "```")
	if !found || !ends {
		t.Fatalf("the page has no %s", path)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func try(script string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-ec", script)
	cmd.Env = append(os.Environ(), "PATH=/usr/local/bin:"+os.Getenv("PATH"))
	out, err := cmd.CombinedOutput()
	return string(out), err
}

func sh(t *testing.T, script string) string {
	t.Helper()
	out, err := try(script)
	if err != nil {
		t.Fatalf("%s: %v\n%s", script, err, out)
	}
	return out
}

func (m *meshed) status() (out api.AgentStatus) {
	client, err := agent.NewClient("unix:///run/kerege/agent/api.sock")
	if err != nil {
		m.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	out, _ = client.Status(ctx) // an agent that restarts says nothing
	return out
}

// in counts the workloads of a service that are in the mesh, and says the rest.
func (m *meshed) in(service string) (n int, rest string) {
	for _, w := range m.status().Workloads {
		if w.Service != service {
			continue
		}
		if w.State == "in" && w.Accepted && w.Proxy.Ready {
			n++
		} else {
			rest += fmt.Sprintf("\n%s/%s %s %s %s", w.Service, w.Workload, w.State, w.Reason, w.Proxy.Why)
		}
	}
	return n, rest
}

func (m *meshed) until(limit time.Duration, what string, ok func() (bool, string)) time.Duration {
	m.t.Helper()
	began, last := time.Now(), ""
	for time.Since(began) < limit {
		good, said := ok()
		if good {
			return time.Since(began)
		}
		if said != last {
			m.t.Logf("%s: %s", what, said)
		}
		last = said
		time.Sleep(50 * time.Millisecond)
	}
	m.logs()
	m.t.Fatalf("%s: not within %s: %s", what, limit, last)
	return 0
}

func (m *meshed) has(service string, want int) time.Duration {
	m.t.Helper()
	return m.until(45*time.Second, fmt.Sprintf("%d of %s in the mesh", want, service), func() (bool, string) {
		n, rest := m.in(service)
		return n == want, fmt.Sprint(n, rest)
	})
}

// logs shows what the tasks wrote.
func (m *meshed) logs() {
	files, _ := filepath.Glob(m.a.Dir + "/data/alloc/*/alloc/logs/*.std*.[0-9]")
	there, _ := filepath.Glob(m.a.Dir + "/n2/data/alloc/*/alloc/logs/*.std*.[0-9]")
	for _, f := range append(files, there...) {
		if text, err := os.ReadFile(f); err == nil && len(text) > 0 {
			m.t.Logf("%s:\n%s", f, text[max(0, len(text)-3000):])
		}
	}
	list, _, _ := m.a.Allocations().List(nil)
	for _, a := range list {
		for name, s := range a.TaskStates {
			for _, e := range s.Events[max(0, len(s.Events)-3):] {
				m.t.Log(a.JobID, name, s.State, e.DisplayMessage)
			}
		}
	}
}

func (m *meshed) allocs(job, group string) (ids []string) {
	list, _, err := m.a.Jobs().Allocations(job, true, nil)
	if err != nil {
		m.t.Fatal(err)
	}
	for _, a := range list {
		if a.TaskGroup == group && a.ClientStatus == nomad.AllocClientStatusRunning {
			ids = append(ids, a.ID)
		}
	}
	slices.Sort(ids)
	return ids
}

func TestAJobInTheMesh(t *testing.T) {
	host(t)
	p := readPage(t)
	sh(t, p.next(t, "useradd"))
	sh(t, p.next(t, "mkdir"))
	p.file(t, "/etc/kerege.d/mesh/mesh.hcl")
	m := &meshed{t: t, a: start(t, rig.Options{CNI: true, Consul: true, Hosts: 2})}
	t.Chdir("/run")
	sh(t, p.next(t, "nomad job run"))
	m.until(30*time.Second, "the server", func() (bool, string) {
		out, err := try("kerege services")
		return err == nil, out
	})
	sh(t, p.next(t, "nomad job run"))
	join := p.next(t, "kerege token create")
	m.until(30*time.Second, "the agent's join", func() (bool, string) {
		out, err := try(join)
		return err == nil, out
	})
	began := time.Now()
	sh(t, p.next(t, "nomad job run"))
	m.has("web", 1)
	m.has("api", 2)
	t.Logf("from `nomad job run` to all in the mesh: %s", time.Since(began).Round(100*time.Millisecond))
	var web, apis []string
	m.until(30*time.Second, "the applications", func() (bool, string) {
		web, apis = m.allocs("web-api", "web"), m.allocs("web-api", "api")
		return len(web) == 1 && len(apis) == 2, fmt.Sprint(web, apis)
	})
	if out := sh(t, p.next(t, "kerege services")); !strings.Contains(out, "api") || !strings.Contains(out, "web") {
		t.Errorf("services:\n%s", out)
	}
	took := m.until(30*time.Second, "a first call", func() (bool, string) {
		out, err := try("nsenter --net=/run/netns/" + web[0] + " curl -sS -o /dev/null -w '%{http_code}' http://api.mesh:8080/")
		return err == nil && out == "200", out
	})
	t.Logf("a first call after %s more", took.Round(10*time.Millisecond))
	if out := sh(t, p.next(t, "nomad alloc exec")); out != "200" {
		t.Errorf("from inside the task: %q", out)
	}
	for _, w := range m.status().Workloads {
		if w.Netns != "/run/netns/"+w.Workload {
			t.Errorf("%s is captured in %q", w.Workload, w.Netns)
		}
	}
	r := m.load(web[0], "http://api.mesh:8080/", 50, 4*time.Second)
	t.Logf("called: %+v", r)
	if r.Failed != 0 || r.Calls < 150 || r.ByCode[200] != r.Calls {
		m.logs()
		t.Errorf("%+v", r)
	}
	for _, url := range []string{"http://web.mesh:8080/", "http://api.mesh:8080/"} { // api is nobody's guest
		if r := m.load(apis[0], url, 50, time.Second); r.ByCode[403] != r.Calls || r.Calls == 0 {
			t.Errorf("api calls %s: %+v", url, r)
		}
	}
	t.Run("checked from outside", func(t *testing.T) { (&meshed{t, m.a}).checkedFromOutside(web[0], apis) })
	t.Run("a job stops under load", func(t *testing.T) { (&meshed{t, m.a}).stopsUnderLoad(web[0]) })
	t.Run("a canary takes its share", func(t *testing.T) { (&meshed{t, m.a}).canary(web[0]) })
	t.Run("an agent restarts under load", func(t *testing.T) { (&meshed{t, m.a}).agentRestarts(web[0], p.next(t, "nomad job restart")) })
	t.Run("an allocation is replaced while its sidecar starts", func(t *testing.T) { (&meshed{t, m.a}).replaced(web[0]) })
	t.Run("a client is drained under load", func(t *testing.T) { (&meshed{t, m.a}).drained(web[0], p.next(t, "nomad node drain")) })
	t.Run("a registration in consul is no identity", func(t *testing.T) { (&meshed{t, m.a}).forged(web[0]) })
	t.Run("a job without an identity", func(t *testing.T) { (&meshed{t, m.a}).withoutIdentity() })
	sh(t, p.next(t, "nomad job stop"))
	m.until(60*time.Second, "an empty node", func() (bool, string) {
		st := m.status()
		return st.Joined && len(st.Workloads) == 0, fmt.Sprintf("%+v", st.Workloads)
	})
	if out, err := try("kerege capture status"); strings.Contains(out, "/run/netns/") {
		t.Errorf("something is captured: %v\n%s", err, out)
	}
	if len(p.left) > 0 {
		t.Errorf("the page's commands were not all run: %q", p.left)
	}
}

// another is the sample's api as a job of its own, so that it can be stopped.
func (m *meshed) another(name string, change func(string) string) {
	m.t.Helper()
	text, err := os.ReadFile("nomad-jobs/web-api.nomad.hcl")
	if err != nil {
		m.t.Fatal(err)
	}
	head, rest, _ := strings.Cut(string(text), `  group "web" {`)
	_, rest, _ = strings.Cut(rest, `  group "api" {`)
	job := strings.Replace(head+`  group "api" {`+rest, `job "web-api"`, fmt.Sprintf("job %q", name), 1)
	if err := m.a.Run(change(job)); err != nil {
		m.t.Fatal(err)
	}
}

func (m *meshed) stopsUnderLoad(web string) {
	// The other half is registered in Nomad itself, at the allocations' own addresses: one service.
	m.another("api-2", func(s string) string {
		return strings.Replace(s, "    service {\n", "    service {\n      provider     = \"nomad\"\n      address_mode = \"alloc\"\n", 1)
	})
	m.has("api", 4)
	m.until(30*time.Second, "the applications", func() (bool, string) { return len(m.allocs("api-2", "api")) == 2, "" })
	m.bothHalves(web)
	end := m.calling(web, "http://api.mesh:8080/")
	sh(m.t, "nomad job stop -detach api-2")
	m.until(60*time.Second, "the stopped allocations' end", func() (bool, string) {
		n := 0
		for _, w := range m.status().Workloads {
			if w.Service == "api" {
				n++
			}
		}
		return n == 2, fmt.Sprintf("%+v", m.status().Workloads)
	})
	end(300)
	if out := sh(m.t, "kerege capture status"); strings.Count(out, "/run/netns/") > 3 {
		m.t.Errorf("more is captured than runs:\n%s", out)
	}
}

// served counts the requests that the applications of a job's api wrote down, less
// those of some allocations.
func (m *meshed) served(job string, less ...string) (n int) {
	for _, id := range m.allocs(job, "api") {
		if slices.Contains(less, id) {
			continue
		}
		here, _ := filepath.Glob(m.a.Dir + "/data/alloc/" + id + "/alloc/logs/api.std*.[0-9]")
		there, _ := filepath.Glob(m.a.Dir + "/n2/data/alloc/" + id + "/alloc/logs/api.std*.[0-9]")
		for _, f := range append(here, there...) {
			text, err := os.ReadFile(f)
			if err != nil {
				m.t.Fatal(err)
			}
			n += strings.Count(string(text), `"GET / HTTP`)
		}
	}
	return n
}

// bothHalves calls api, half of which is in Consul and half in Nomad.
func (m *meshed) bothHalves(web string) {
	m.t.Helper()
	m.until(30*time.Second, "calls to both halves", func() (bool, string) {
		before := [2]int{m.served("web-api"), m.served("api-2")}
		r := m.load(web, "http://api.mesh:8080/", 50, 2*time.Second)
		in, out := m.served("web-api")-before[0], m.served("api-2")-before[1]
		if r.Failed != 0 || r.ByCode[200] != r.Calls {
			m.t.Fatalf("%+v", r)
		}
		m.t.Logf("of %d calls, %d went to the half in consul and %d to the half in nomad", r.Calls, in, out)
		return in*4 > r.Calls && out*4 > r.Calls, fmt.Sprint(in, out)
	})
}

func (m *meshed) agentRestarts(web, restart string) {
	end := m.calling(web, "http://api.mesh:8080/")
	sh(m.t, restart)
	m.has("web", 1)
	m.has("api", 2)
	end(100)
}

func (m *meshed) withoutIdentity() {
	m.another("api-3", func(s string) string {
		head, rest, _ := strings.Cut(s, "      identity {")
		_, rest, _ = strings.Cut(rest, "      }\n")
		return head + rest
	})
	m.until(60*time.Second, "the reason", func() (bool, string) {
		_, rest := m.in("api")
		return strings.Contains(rest, "shows no workload identity"), rest
	})
	m.until(10*time.Second, "the reason in the allocation's logs", func() (bool, string) {
		list, _, err := m.a.Jobs().Allocations("api-3", true, nil)
		if err != nil || len(list) == 0 {
			return false, fmt.Sprint(err)
		}
		out, err := try("nomad alloc logs -stderr -task kerege-envoy " + list[0].ID)
		return err == nil && strings.Contains(out, "its job needs an identity block named kerege"), out
	})
	if n, _ := m.in("api"); n != 2 {
		m.t.Errorf("%d of api are in the mesh", n)
	}
	list, _, err := m.a.Jobs().Allocations("api-3", true, nil)
	if err != nil || len(list) == 0 || list[0].TaskStates["api"] != nil && !list[0].TaskStates["api"].StartedAt.IsZero() {
		m.t.Errorf("the application did not wait for its certificate: %v %+v", err, list)
	}
	sh(m.t, "nomad job stop -detach api-3")
}
