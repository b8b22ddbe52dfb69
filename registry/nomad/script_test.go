package nomad

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/kerege/kerege/mesh"
)

// script is a Nomad that does what a test says.
type script struct {
	t   *testing.T
	srv *httptest.Server

	mu        sync.Mutex
	moved     chan struct{} // closed at each change
	index     uint64
	regs      map[key][]*api.ServiceRegistration
	allocs    map[string]*allocation
	statuses  map[string]string // of an allocation's one check
	lines     []string          // of the event stream; nil: there is none
	asked     map[string]int    // by path
	queries   []string          // of the lists
	intercept func(w http.ResponseWriter, r *http.Request) bool
}

func newScript(t *testing.T) *script {
	s := &script{t: t, moved: make(chan struct{}), index: 10, regs: map[key][]*api.ServiceRegistration{}, allocs: map[string]*allocation{},
		statuses: map[string]string{}, asked: map[string]int{}, lines: []string{"{}"}}
	s.srv = httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(s.srv.Close)
	return s
}

// do changes something, moves the index and wakes who waits.
func (s *script) do(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
	s.index++
	close(s.moved)
	s.moved = make(chan struct{})
}

func (s *script) put(k key, n int) *api.ServiceRegistration {
	id := fmt.Sprintf("alloc-%s-%s-%d", k.namespace, k.name, n)
	r := &api.ServiceRegistration{ID: "_nomad-task-" + id + "-group-g-" + k.name + "-http", ServiceName: k.name, Namespace: k.namespace, NodeID: "node-1",
		Datacenter: "dc1", JobID: k.name, AllocID: id, Tags: []string{"stable"}, Address: "10.0.0.1", Port: 20000 + n}
	s.do(func() {
		r.ModifyIndex = s.index
		s.regs[k] = append(s.regs[k], r)
		s.allocs[id] = &allocation{ID: id, Namespace: k.namespace, NodeID: "node-1", NodeName: "vm-1", TaskGroup: "g", ClientStatus: "running", DesiredStatus: "run", ModifyIndex: s.index}
		s.lines = s.tell(`{"Service":{"ServiceName":%q,"Namespace":%q}}`, k.name, k.namespace)
	})
	return r
}

func (s *script) tell(payload string, args ...any) []string {
	if s.lines == nil {
		return nil
	}
	return append(s.lines, fmt.Sprintf(`{"Index":1,"Events":[{"Payload":%s}]}`, fmt.Sprintf(payload, args...)))
}

func (s *script) drop(k key) {
	s.do(func() {
		delete(s.regs, k)
		s.lines = s.tell(`{"Service":{"ServiceName":%q,"Namespace":%q}}`, k.name, k.namespace)
	})
}

// on has a test answer itself; nil ends it.
func (s *script) on(f func(w http.ResponseWriter, r *http.Request) bool) {
	s.mu.Lock()
	s.intercept = f
	s.mu.Unlock()
}

func (s *script) count(path string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[path]
}

func (s *script) serve(w http.ResponseWriter, r *http.Request) {
	ns := r.URL.Query().Get("namespace")
	s.mu.Lock()
	s.asked[r.URL.Path]++
	if r.URL.Path == "/v1/services" {
		s.queries = append(s.queries, r.URL.RawQuery)
	}
	f := s.intercept
	s.mu.Unlock()
	if f != nil && f(w, r) {
		return
	}
	id := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
	switch {
	case r.URL.Path == "/v1/status/leader":
		s.answer(w, "10.0.0.9:4647")
	case r.URL.Path == "/v1/services":
		s.list(w, r, ns)
	case strings.HasPrefix(r.URL.Path, "/v1/service/"):
		s.mu.Lock()
		list := slices.Clone(s.regs[key{ns, id}])
		s.mu.Unlock()
		s.answer(w, append([]*api.ServiceRegistration{}, list...))
	case strings.HasPrefix(r.URL.Path, "/v1/allocation/"):
		s.mu.Lock()
		a := s.allocs[id]
		s.mu.Unlock()
		if a == nil {
			http.Error(w, "alloc not found", http.StatusNotFound)
			return
		}
		s.answer(w, a)
	case strings.HasSuffix(r.URL.Path, "/checks"):
		alloc := strings.Split(r.URL.Path, "/")[4]
		s.mu.Lock()
		status := s.statuses[alloc]
		s.mu.Unlock()
		s.answer(w, api.AllocCheckStatuses{"c": {ID: "c", Service: "api", Status: status}})
	case strings.HasPrefix(r.URL.Path, "/v1/node/"):
		s.answer(w, map[string]any{"Name": "vm-1", "Meta": map[string]string{"rack": "r1"}})
	case r.URL.Path == eventPath:
		s.events(w, r)
	default:
		http.NotFound(w, r)
	}
}

func (s *script) answer(w http.ResponseWriter, body any) {
	s.mu.Lock()
	w.Header().Set("X-Nomad-Index", strconv.FormatUint(s.index, 10))
	s.mu.Unlock()
	w.Header().Set("X-Nomad-KnownLeader", "true")
	w.Header().Set("X-Nomad-LastContact", "0")
	json.NewEncoder(w).Encode(body)
}

func (s *script) list(w http.ResponseWriter, r *http.Request, ns string) {
	index, _ := strconv.ParseUint(r.URL.Query().Get("index"), 10, 64)
	wait, _ := time.ParseDuration(r.URL.Query().Get("wait"))
	timeout := time.After(wait)
	s.mu.Lock()
	for index > 0 && s.index == index { // one that went back answers, as after a restore
		moved := s.moved
		s.mu.Unlock()
		select {
		case <-moved:
		case <-timeout:
			index = 0
		case <-r.Context().Done():
			index = 0
		}
		s.mu.Lock()
	}
	spaces := map[string][]*api.ServiceRegistrationStub{}
	for _, k := range slices.SortedFunc(maps.Keys(s.regs), key.compare) {
		if ns == "*" || ns == k.namespace {
			spaces[k.namespace] = append(spaces[k.namespace], &api.ServiceRegistrationStub{ServiceName: k.name})
		}
	}
	s.mu.Unlock()
	body := []api.ServiceRegistrationListStub{}
	for _, n := range slices.Sorted(maps.Keys(spaces)) {
		body = append(body, api.ServiceRegistrationListStub{Namespace: n, Services: spaces[n]})
	}
	s.answer(w, body)
}

func (s *script) events(w http.ResponseWriter, r *http.Request) {
	told := 0
	for {
		s.mu.Lock()
		lines, moved := s.lines, s.moved
		s.mu.Unlock()
		if lines == nil {
			http.Error(w, "the event broker is off", http.StatusInternalServerError)
			return
		}
		for _, l := range lines[told:] {
			fmt.Fprintln(w, l)
		}
		told = len(lines)
		w.(http.Flusher).Flush()
		select {
		case <-moved:
		case <-r.Context().Done():
			return
		}
	}
}

// ear keeps the last part of each scope, as a hub would.
type ear struct {
	t   *testing.T
	src *Source

	mu     sync.Mutex
	parts  map[string]mesh.Part
	marked bool
	said   int
}

func listenTo(t *testing.T, s *script, opt Options) *ear {
	t.Helper()
	opt.Address = s.srv.URL
	src, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	src.margin = 200 * time.Millisecond
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
	return e
}

func (e *ear) of(name string) []mesh.Instance {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.parts[name].Instances
}

func (e *ear) complete() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.marked
}

func (e *ear) state() mesh.SourceState { return e.src.Report().State }

// becomes waits until the source reports a state.
func (e *ear) becomes(want mesh.SourceState) {
	e.t.Helper()
	within(e.t, 20*time.Second, "state "+string(want), func() bool { return e.state() == want })
}

// has waits until a service has so many instances.
func (e *ear) has(name string, n int) {
	e.t.Helper()
	within(e.t, 20*time.Second, fmt.Sprintf("%d instances of %s", n, name), func() bool { return len(e.of(name)) == n })
}

// keeps fails when a service has not so many instances now.
func (e *ear) keeps(name string, n int) {
	e.t.Helper()
	if got := e.of(name); len(got) != n {
		e.t.Fatalf("%s has %d instances, not %d: %+v", name, len(got), n, e.src.Report())
	}
}

func within(t *testing.T, limit time.Duration, what string, ok func() bool) {
	t.Helper()
	for began := time.Now(); !ok(); time.Sleep(2 * time.Millisecond) {
		if time.Since(began) > limit {
			t.Fatalf("%s: not within %s", what, limit)
		}
	}
}
