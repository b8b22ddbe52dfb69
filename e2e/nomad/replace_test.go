//go:build e2e

package nomad_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	nomad "github.com/hashicorp/nomad/api"
)

// replaced stops an allocation while its sidecar starts, and so the next one: what
// comes in their place is in the mesh, and of them nothing is left.
func (m *meshed) replaced(web string) {
	end := m.calling(web, "http://api.mesh:8080/")
	m.t.Cleanup(func() { try("nomad job stop -detach api-6") })
	m.another("api-6", func(s string) string {
		s = strings.Replace(s, "count = 2", "count = 1", 1)
		s = strings.Replace(s, `shutdown_delay = "6s"`, `shutdown_delay = "0s"`, 1) // the stop is at once
		// The sidecar takes long enough to start that the stop meets it.
		return strings.Replace(s, `command = "/usr/local/bin/kerege"
        args    = ["envoy", "-service", "api", "-workload", "${NOMAD_ALLOC_ID}"]`, `command = "/bin/sh"
        args    = ["-c", "sleep 1.5; exec /usr/local/bin/kerege envoy -service api -workload ${NOMAD_ALLOC_ID}"]`, 1)
	})
	var old []string
	for range 2 {
		a := m.starting("api-6", old)
		if _, err := m.a.Allocations().Stop(&nomad.Allocation{ID: a}, nil); err != nil { // as nomad alloc stop -detach
			m.t.Fatal(err)
		}
		old = append(old, a)
	}
	m.has("api", 3)
	m.until(30*time.Second, "the application", func() (bool, string) { return len(m.allocs("api-6", "api")) == 1, "" })
	fresh := m.allocs("api-6", "api")[0]
	for _, id := range old {
		m.until(45*time.Second, "nothing of "+id, func() (bool, string) { left := m.left(id); return len(left) == 0, strings.Join(left, ", ") })
		if s := m.task(id, "api"); s != nil && !s.StartedAt.IsZero() {
			m.t.Errorf("the application of %s was started, though it was stopped before its Envoy was ready", id)
		}
	}
	end(100)
	ready := m.envoyReady(fresh)
	wait, main := m.task(fresh, "kerege-wait"), m.task(fresh, "api")
	m.t.Logf("Envoy is ready %s before the application starts", main.StartedAt.Sub(ready).Round(time.Millisecond))
	if !main.StartedAt.After(ready) || wait.Failed || !main.StartedAt.After(wait.FinishedAt) {
		m.t.Errorf("the application starts at %s, its Envoy is ready at %s, and the wait ends at %s", main.StartedAt, ready, wait.FinishedAt)
	}

	sh(m.t, "nomad job stop -detach api-6")
	m.until(60*time.Second, "the end of its tasks", func() (bool, string) {
		return m.task(fresh, "api").State == "dead" && m.task(fresh, "kerege-envoy").State == "dead", ""
	})
	main, side := m.task(fresh, "api"), m.task(fresh, "kerege-envoy")
	m.t.Logf("the sidecar ends %s after the application", side.FinishedAt.Sub(main.FinishedAt).Round(time.Millisecond))
	if !side.FinishedAt.After(main.FinishedAt) {
		m.t.Errorf("the application ends at %s and its sidecar at %s", main.FinishedAt, side.FinishedAt)
	}
	m.until(45*time.Second, "nothing of "+fresh, func() (bool, string) {
		left := m.left(fresh)
		return len(left) == 0, strings.Join(left, ", ")
	})
}

// starting waits for an allocation whose sidecar runs and is not ready yet.
func (m *meshed) starting(job string, old []string) (id string) {
	m.t.Helper()
	limit := time.Now().Add(60 * time.Second)
	for ; time.Now().Before(limit); time.Sleep(10 * time.Millisecond) {
		list, _, err := m.a.Jobs().Allocations(job, true, nil)
		if err != nil {
			m.t.Fatal(err)
		}
		for _, a := range list {
			side, main := a.TaskStates["kerege-envoy"], a.TaskStates["api"]
			if a.DesiredStatus != nomad.AllocDesiredStatusRun || strings.Contains(strings.Join(old, " "), a.ID) || side == nil || side.State != "running" {
				continue
			}
			if main != nil && !main.StartedAt.IsZero() {
				m.t.Fatalf("the application of %s was started before this test saw its sidecar start", a.ID)
			}
			return a.ID
		}
	}
	m.logs()
	m.t.Fatalf("no sidecar of %s starts", job)
	return ""
}

// task is what Nomad says of an allocation's task.
func (m *meshed) task(alloc, name string) *nomad.TaskState {
	m.t.Helper()
	a, _, err := m.a.Allocations().Info(alloc, nil)
	if err != nil {
		m.t.Fatal(err)
	}
	return a.TaskStates[name]
}

// envoyReady is when an allocation's sidecar said that its Envoy is ready.
func (m *meshed) envoyReady(alloc string) time.Time {
	m.t.Helper()
	text, err := os.ReadFile(m.a.Dir + "/data/alloc/" + alloc + "/alloc/logs/kerege-envoy.stderr.0")
	if err != nil {
		m.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if stamp, _, is := strings.Cut(line, " [INFO]  kerege.envoy: Envoy is ready"); is {
			at, err := time.Parse("2006-01-02T15:04:05.000Z0700", stamp)
			if err != nil {
				m.t.Fatal(err)
			}
			return at
		}
	}
	m.t.Fatalf("the sidecar of %s does not say that its Envoy is ready:\n%s", alloc, text)
	return time.Time{}
}

// left is what there still is of an allocation that is over.
func (m *meshed) left(alloc string) (out []string) {
	m.t.Helper()
	for _, pattern := range []string{"/run/netns/" + alloc, "/run/kerege/proxy/*" + alloc + "*"} {
		found, _ := filepath.Glob(pattern)
		out = append(out, found...)
	}
	for _, w := range m.status().Workloads {
		if w.Workload == alloc {
			out = append(out, "the agent's workload, "+w.State)
		}
	}
	for _, command := range []string{"kerege capture status", "kerege proxies -json", "kerege services api"} {
		said, err := try(command)
		if err != nil || strings.Contains(said, alloc) {
			out = append(out, fmt.Sprintf("%s %v", command, err))
		}
	}
	for _, c := range m.checks("api") {
		if strings.Contains(c.ServiceID, alloc) {
			out = append(out, "a check in consul")
		}
	}
	return out
}
