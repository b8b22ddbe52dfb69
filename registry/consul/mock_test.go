package consul_test

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/kerege/kerege/e2e/mockconsul"
	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/registry/consul"
)

// ear hears what a source says.
type ear struct {
	t      *testing.T
	src    *consul.Source
	mu     sync.Mutex
	parts  map[string]mesh.Part
	heard  map[string]time.Time
	number int
	whole  bool
}

func listen(t *testing.T, opt consul.Options) *ear {
	t.Helper()
	src, err := consul.New(opt)
	if err != nil {
		t.Fatal(err)
	}
	e := &ear{t: t, src: src, parts: map[string]mesh.Part{}, heard: map[string]time.Time{}}
	ctx, stop := context.WithCancel(t.Context())
	out, ended := make(chan mesh.Part), make(chan struct{})
	go func() {
		defer close(ended)
		if err := src.Watch(ctx, out); err != nil {
			t.Errorf("Watch: %v", err)
		}
	}()
	go func() {
		for {
			select {
			case p := <-out:
				e.mu.Lock()
				e.parts[p.Scope], e.heard[p.Scope] = p, time.Now()
				e.number++
				e.whole = e.whole || p.Scope == ""
				e.mu.Unlock()
			case <-ended:
				return
			}
		}
	}()
	t.Cleanup(func() { stop(); <-ended })
	return e
}

func (e *ear) part(service string) mesh.Part {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.parts[service]
}

func (e *ear) count(service string) int { return len(e.part(service).Instances) }

func (e *ear) said() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.number
}

func (e *ear) complete() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.whole
}

func within(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(2 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("waited %v: %s", limit, what)
}

// stays fails when ok turns false within the time.
func stays(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if !ok() {
			t.Fatalf("did not stay: %s", what)
		}
	}
}

func entries(service string, n int) []*api.ServiceEntry {
	var list []*api.ServiceEntry
	for i := range n {
		list = append(list, mockconsul.Entry(service, fmt.Sprint(service, "-", i), "vm-1", fmt.Sprint("10.0.0.", i+1), 80))
	}
	return list
}

func started(t *testing.T) (*mockconsul.Server, *ear) {
	t.Helper()
	m := mockconsul.New()
	t.Cleanup(m.Close)
	m.Set("api", entries("api", 3)...)
	m.Set("web", entries("web", 1)...)
	e := listen(t, consul.Options{Address: m.URL})
	within(t, 5*time.Second, "the first word", e.complete)
	if e.count("api") != 3 || e.count("web") != 1 {
		t.Fatalf("api %d, web %d", e.count("api"), e.count("web"))
	}
	within(t, 2*time.Second, "ok", func() bool { return e.src.Report().State == mesh.SourceOK })
	return m, e
}

func service(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/v1/health/service/") }

func TestServicesComeChangeAndGo(t *testing.T) {
	t.Parallel()
	m, e := started(t)
	m.Set("new", entries("new", 2)...)
	within(t, 2*time.Second, "a new service", func() bool { return e.count("new") == 2 })
	m.Set("api", entries("api", 4)...)
	within(t, time.Second, "a new instance", func() bool { return e.count("api") == 4 })
	m.Set("api", entries("api", 1)...)
	within(t, time.Second, "fewer instances", func() bool { return e.count("api") == 1 })
	m.Set("web")
	within(t, time.Second, "a service gone", func() bool { return e.count("web") == 0 })
	m.Set("web", entries("web", 2)...)
	within(t, 5*time.Second, "it comes back", func() bool { return e.count("web") == 2 })
	if n := m.Count("/api"); n > 8 {
		t.Errorf("%d requests for three changes", n)
	}
}

// A14: a name that would lead a URL elsewhere costs nobody else anything.
func TestANameThatIsAPath(t *testing.T) {
	t.Parallel()
	m, e := started(t)
	var strayed atomic.Int64
	m.Script(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/v1/catalog/services" || r.URL.Path == "/v1/health/service/new" || r.URL.Path == "/v1/health/service/api" || r.URL.Path == "/v1/health/service/web" {
			return false
		}
		strayed.Add(1)
		http.Error(w, "Invalid URL path: not a recognized HTTP API endpoint", http.StatusNotFound)
		return true
	})
	for _, name := range []string{"../../etc", "..", ".", "a//b", "/"} {
		m.Set(name, entries("bad", 1)...)
	}
	m.Set("new", entries("new", 2)...)
	within(t, 5*time.Second, "a service after them", func() bool { return e.count("new") == 2 })
	stays(t, 500*time.Millisecond, "ok", func() bool { return e.src.Report().State == mesh.SourceOK })
	if n := strayed.Load(); n > 0 {
		t.Errorf("%d requests for something else", n)
	}
}

// A3: an index that goes back starts from nothing, and misses nothing.
func TestIndexGoesBack(t *testing.T) {
	t.Parallel()
	m, e := started(t)
	m.Rewind(3)
	time.Sleep(100 * time.Millisecond)
	m.Set("api", entries("api", 5)...)
	within(t, 2*time.Second, "a change after the rewind", func() bool { return e.count("api") == 5 })
	if n := m.Count("/api"); n > 7 {
		t.Errorf("%d requests", n)
	}
}

// A4: index 0 does not make a hot loop.
func TestIndexZero(t *testing.T) {
	t.Parallel()
	m, e := started(t)
	m.Script(func(w http.ResponseWriter, r *http.Request) bool {
		if !service(r) {
			return false
		}
		mockconsul.Headers(w, 0)
		mockconsul.Write(w, entries(strings.TrimPrefix(r.URL.Path, "/v1/health/service/"), 3))
		return true
	})
	before := m.Count("/api")
	time.Sleep(4 * time.Second)
	if n := m.Count("/api") - before; n > 2*4 {
		t.Errorf("%d requests in 4 s", n)
	}
	if e.count("api") != 3 {
		t.Errorf("%d instances", e.count("api"))
	}
}

// A5: an answer that never comes is given up after its wait and asked for again.
func TestHangingAnswer(t *testing.T) {
	t.Parallel()
	m := mockconsul.New()
	t.Cleanup(m.Close)
	m.Set("api", entries("api", 3)...)
	var hung sync.Once
	stop := make(chan struct{})
	defer close(stop)
	e := listen(t, consul.Options{Address: m.URL, Reread: time.Second})
	within(t, 5*time.Second, "the first word", e.complete)
	m.Script(func(w http.ResponseWriter, r *http.Request) bool {
		hang := false
		if service(r) && r.URL.Query().Get("index") != "" {
			hung.Do(func() { hang = true })
		}
		if hang {
			select {
			case <-stop:
			case <-r.Context().Done():
			}
		}
		return hang
	})
	m.Set("api", entries("api", 4)...)
	within(t, 20*time.Second, "a change behind a hanging answer", func() bool { return e.count("api") == 4 })
}

// A6: 200 and an empty list without a known leader.
func TestNoKnownLeader(t *testing.T) {
	t.Parallel()
	m, e := started(t)
	before := e.said()
	m.Script(func(w http.ResponseWriter, r *http.Request) bool {
		if !service(r) {
			return false
		}
		mockconsul.Headers(w, 99)
		w.Header().Set("X-Consul-KnownLeader", "false")
		mockconsul.Write(w, []string{})
		return true
	})
	within(t, 2*time.Second, "stale", func() bool { return e.src.Report().State == mesh.SourceStale })
	stays(t, time.Second, "what was said", func() bool { return e.said() == before })
	m.Script(nil)
	m.Set("api", entries("api", 4)...)
	within(t, 20*time.Second, "it heals", func() bool { return e.count("api") == 4 && e.src.Report().State == mesh.SourceOK })
}

func TestLastContact(t *testing.T) {
	t.Parallel()
	m, e := started(t)
	m.Script(func(w http.ResponseWriter, r *http.Request) bool {
		if !service(r) {
			return false
		}
		mockconsul.Headers(w, 99)
		w.Header().Set("X-Consul-LastContact", "31000")
		mockconsul.Write(w, entries("api", 9))
		return true
	})
	within(t, 2*time.Second, "stale", func() bool { return e.src.Report().State == mesh.SourceStale })
	if e.count("api") != 3 {
		t.Errorf("an old answer was believed")
	}
}

// A7: 403 freezes; a new token in the file is used without a restart.
func TestDeniedAndANewToken(t *testing.T) {
	t.Parallel()
	m := mockconsul.New()
	t.Cleanup(m.Close)
	m.Set("api", entries("api", 3)...)
	var mu sync.Mutex
	good := "first"
	m.Script(func(w http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		if r.Header.Get("X-Consul-Token") != good {
			http.Error(w, "ACL not found", http.StatusForbidden)
			return true
		}
		return false
	})
	file := filepath.Join(t.TempDir(), "token")
	os.WriteFile(file, []byte("first\n"), 0o600)
	e := listen(t, consul.Options{Address: m.URL, TokenFile: file})
	within(t, 5*time.Second, "the first word", e.complete)
	mu.Lock()
	good = "second"
	mu.Unlock()
	m.Set("api", entries("api", 2)...)
	within(t, 5*time.Second, "denied", func() bool { return e.src.Report().State == mesh.SourceDenied })
	if e.count("api") != 3 {
		t.Errorf("%d instances", e.count("api"))
	}
	os.WriteFile(file, []byte("second\n"), 0o600)
	within(t, 20*time.Second, "the new token", func() bool { return e.count("api") == 2 && e.src.Report().State == mesh.SourceOK })
}

// A8: a narrowed token; blocking says so in a header, streaming does not.
func TestNarrowedToken(t *testing.T) {
	t.Parallel()
	for _, backend := range []string{"blocking-query", "streaming"} {
		t.Run(backend, func(t *testing.T) {
			t.Parallel()
			m, e := started(t)
			before := e.said()
			m.Script(func(w http.ResponseWriter, r *http.Request) bool {
				if !service(r) {
					return false
				}
				mockconsul.Headers(w, 12)
				if q := r.URL.Query(); backend == "streaming" && !q.Has("consistent") && q.Get("index") != "" {
					w.Header().Set("X-Consul-KnownLeader", "false")
					w.Header().Set("X-Consul-Query-Backend", "streaming")
				} else {
					w.Header().Set("X-Consul-Results-Filtered-By-ACLs", "true")
				}
				mockconsul.Write(w, []string{})
				return true
			})
			within(t, 3*time.Second, "filtered", func() bool { return e.src.Report().State == mesh.SourceFiltered })
			stays(t, 2*time.Second, "what was said", func() bool { return e.said() == before })
			if why := e.src.Report().Err; !strings.Contains(why, "service_prefix") {
				t.Errorf("the missing rule is not named: %s", why)
			}
		})
	}
}

// A9: a loss is believed only when a consistent read says the same.
func TestALossIsConfirmed(t *testing.T) {
	t.Parallel()
	for left := range 3 {
		t.Run(fmt.Sprint(left), func(t *testing.T) {
			t.Parallel()
			m, e := started(t)
			m.Script(func(w http.ResponseWriter, r *http.Request) bool {
				if !strings.HasSuffix(r.URL.Path, "/api") {
					return false
				}
				mockconsul.Headers(w, 50)
				if r.URL.Query().Has("consistent") {
					mockconsul.Write(w, entries("api", 3)) // the leader still has them
				} else {
					mockconsul.Write(w, append([]*api.ServiceEntry{}, entries("api", left)...))
				}
				return true
			})
			stays(t, 2*time.Second, "three instances", func() bool { return e.count("api") == 3 })
			m.Script(nil)
			m.Set("api", entries("api", left)...)
			within(t, 20*time.Second, "a confirmed loss", func() bool { return e.count("api") == left })
		})
	}
}

func TestAFirstAnswerThatIsEmptyIsConfirmed(t *testing.T) {
	t.Parallel()
	m := mockconsul.New()
	t.Cleanup(m.Close)
	m.Set("api", entries("api", 3)...)
	m.Script(func(w http.ResponseWriter, r *http.Request) bool {
		if !service(r) || r.URL.Query().Has("consistent") || r.URL.Query().Has("index") {
			return false
		}
		mockconsul.Headers(w, 11)
		mockconsul.Write(w, []string{})
		return true
	})
	e := listen(t, consul.Options{Address: m.URL})
	within(t, 5*time.Second, "the first word", e.complete)
	if e.count("api") != 3 || e.said() != 2 {
		t.Errorf("%d instances after %d parts", e.count("api"), e.said())
	}
}

// A16: answers that cannot be read.
func TestBrokenAnswers(t *testing.T) {
	t.Parallel()
	for what, body := range map[string]func(w http.ResponseWriter){
		"invalid":   func(w http.ResponseWriter) { fmt.Fprint(w, `[{"Service":`) },
		"truncated": func(w http.ResponseWriter) { w.Header().Set("Content-Length", "100"); fmt.Fprint(w, `[`) },
		"huge": func(w http.ResponseWriter) {
			w.Write([]byte(`[{"Service":{"ID":"`))
			junk := bytes.Repeat([]byte("x"), 1<<20)
			for range 100 {
				if _, err := w.Write(junk); err != nil {
					return
				}
			}
			w.Write([]byte(`"}}]`))
		},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			m, e := started(t)
			before := e.said()
			m.Script(func(w http.ResponseWriter, r *http.Request) bool {
				if strings.HasSuffix(r.URL.Path, "/api") {
					mockconsul.Headers(w, 99)
					body(w)
					return true
				}
				return false
			})
			within(t, 5*time.Second, "error", func() bool { return e.src.Report().State == mesh.SourceError })
			if e.said() != before {
				t.Error("a broken answer was believed")
			}
			m.Script(nil)
			within(t, 20*time.Second, "it heals", func() bool { return e.src.Report().State == mesh.SourceOK })
		})
	}
}

func TestConsulAwayAndBack(t *testing.T) {
	t.Parallel()
	m, e := started(t)
	m.Script(func(w http.ResponseWriter, r *http.Request) bool {
		http.Error(w, "No cluster leader", http.StatusInternalServerError)
		return true
	})
	within(t, 15*time.Second, "error", func() bool { return e.src.Report().State == mesh.SourceError })
	asked := m.Count("")
	time.Sleep(3 * time.Second)
	if n := m.Count("") - asked; n > 15 {
		t.Errorf("%d requests in 3 s to a Consul that fails", n)
	}
	if e.count("api") != 3 {
		t.Errorf("%d instances", e.count("api"))
	}
	m.Script(nil)
	within(t, 5*time.Second, "it heals within 5 s although nothing changed", func() bool { return e.src.Report().State == mesh.SourceOK })
	m.Set("api", entries("api", 4)...)
	within(t, 5*time.Second, "it follows again", func() bool { return e.count("api") == 4 && e.src.Report().State == mesh.SourceOK })
}

// A lost notification heals by the full read, and is counted.
func TestAMissedChangeIsFound(t *testing.T) {
	t.Parallel()
	m := mockconsul.New()
	t.Cleanup(m.Close)
	m.Set("api", entries("api", 3)...)
	e := listen(t, consul.Options{Address: m.URL, Reread: 2 * time.Second})
	within(t, 5*time.Second, "the first word", e.complete)
	m.Script(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, "/api") {
			return false
		}
		mockconsul.Headers(w, 11)
		if r.URL.Query().Get("index") != "" { // long polls never hear of it
			time.Sleep(time.Second)
			mockconsul.Write(w, entries("api", 3))
		} else {
			mockconsul.Write(w, entries("api", 4))
		}
		return true
	})
	within(t, 10*time.Second, "a difference found", func() bool { return e.src.Report().Healed > 0 })
}
