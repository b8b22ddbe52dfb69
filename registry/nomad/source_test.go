package nomad

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kerege/kerege/mesh"
)

var apiKey = key{"default", "api"}

// started is a script with two instances of api and an ear that has heard all.
func started(t *testing.T, opt Options) (*script, *ear) {
	t.Helper()
	s := newScript(t)
	s.put(apiKey, 1)
	s.put(apiKey, 2)
	e := listenTo(t, s, opt)
	within(t, 20*time.Second, "the first word", e.complete)
	e.keeps("api", 2)
	return s, e
}

func TestOnlyWholeAnswersCount(t *testing.T) {
	isList := func(r *http.Request) bool { return r.URL.Path == "/v1/services" }
	isService := func(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/v1/service/") }
	empty := func(leader string, contact string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("X-Nomad-Index", "99")
			w.Header().Set("X-Nomad-KnownLeader", leader)
			w.Header().Set("X-Nomad-LastContact", contact)
			fmt.Fprint(w, "[]")
		}
	}
	huge := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Nomad-KnownLeader", "true")
		fmt.Fprint(w, `["`)
		piece := strings.Repeat("x", 1<<20)
		for range maxBody>>20 + 1 {
			fmt.Fprint(w, piece)
		}
		fmt.Fprint(w, `"]`)
	}
	truncated := func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Nomad-KnownLeader", "true")
		w.Header().Set("Content-Length", "400")
		fmt.Fprint(w, `[{"ID":`)
	}
	refused := func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "Permission denied", http.StatusForbidden)
	}
	for name, c := range map[string]struct {
		what   func(*http.Request) bool
		answer http.HandlerFunc
		want   mesh.SourceState
	}{
		"list refused":         {isList, refused, mesh.SourceDenied},
		"service refused":      {isService, refused, mesh.SourceDenied},
		"list truncated":       {isList, truncated, mesh.SourceError},
		"service truncated":    {isService, truncated, mesh.SourceError},
		"list too long":        {isList, huge, mesh.SourceError},
		"service too long":     {isService, huge, mesh.SourceError},
		"service not JSON":     {isService, func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") }, mesh.SourceError},
		"service, no leader":   {isService, empty("false", "0"), mesh.SourceStale},
		"service, past leader": {isService, empty("true", "45000"), mesh.SourceStale},
		"list, no leader":      {isList, empty("false", "0"), mesh.SourceStale},
		"one too many":         {isService, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(429) }, mesh.SourceError},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, e := started(t, Options{})
			e.becomes(mesh.SourceOK)
			s.on(func(w http.ResponseWriter, r *http.Request) bool {
				if c.what(r) {
					c.answer(w, r)
				}
				return c.what(r)
			})
			s.put(apiKey, 3)
			e.becomes(c.want)
			if c.want != mesh.SourceDenied && e.src.Report().Err == "" {
				t.Error("no word of why")
			}
			e.mu.Lock()
			least := len(e.parts["api"].Instances)
			e.mu.Unlock()
			if least < 2 {
				t.Fatalf("%d instances are left", least)
			}
			s.on(nil)
			e.has("api", 3)
			e.becomes(mesh.SourceOK)
		})
	}
}

func TestALossIsBelievedTheSecondTime(t *testing.T) {
	t.Parallel()
	s, e := started(t, Options{})
	var lies atomic.Int32
	lies.Store(1)
	s.on(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/v1/service/api" && lies.Add(-1) >= 0 {
			s.answer(w, []any{})
			return true
		}
		return false
	})
	s.do(func() { s.lines = s.tell(`{"Service":{"ServiceName":"api","Namespace":"default"}}`) })
	within(t, 20*time.Second, "the lie and the second read", func() bool { return lies.Load() < 0 })
	s.put(key{"default", "other"}, 1)
	e.has("other", 1)
	e.keeps("api", 2)
	e.mu.Lock()
	if e.said != 3 {
		t.Errorf("%d parts were sent, for api, the mark and other", e.said)
	}
	e.mu.Unlock()

	s.drop(apiKey)
	e.has("api", 0)
	within(t, 20*time.Second, "nobody to follow it", func() bool { return e.src.Report().Services == 1 })
	s.put(apiKey, 7)
	e.has("api", 1)
}

func TestAnIndexThatGoesBackwards(t *testing.T) {
	t.Parallel()
	s, e := started(t, Options{})
	s.do(func() { s.index = 3; s.regs[apiKey] = s.regs[apiKey][:1] }) // restored from a backup
	e.has("api", 1)
	s.put(apiKey, 3)
	e.has("api", 2)
	s.mu.Lock()
	defer s.mu.Unlock()
	var reset bool
	for _, q := range s.queries[1:] {
		reset = reset || !strings.Contains(q, "index=")
	}
	if !reset {
		t.Errorf("no list was asked from nothing: %q", s.queries)
	}
}

func TestAStuckIndexIsNoHotLoop(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.put(apiKey, 1)
	s.on(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/v1/services" {
			return false
		}
		w.Header().Set("X-Nomad-Index", "0")
		w.Header().Set("X-Nomad-KnownLeader", "true")
		w.Header().Set("X-Nomad-LastContact", "0")
		fmt.Fprint(w, `[{"Namespace":"default","Services":[{"ServiceName":"api"}]}]`)
		return true
	})
	e := listenTo(t, s, Options{})
	e.has("api", 1)
	time.Sleep(4 * time.Second)
	if n := s.count("/v1/services"); n > 8 {
		t.Errorf("%d lists in 4 s", n)
	}
	if n := s.count("/v1/service/api"); n > 12 {
		t.Errorf("%d reads of api in 4 s", n)
	}
}

func TestAHangingQueryIsGivenUp(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.lines = nil // the list alone tells of changes
	s.put(apiKey, 1)
	e := listenTo(t, s, Options{Reread: time.Second})
	e.has("api", 1)
	s.on(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/v1/services" {
			<-r.Context().Done()
		}
		return r.URL.Path == "/v1/services"
	})
	e.becomes(mesh.SourceError)
	e.keeps("api", 1)
	s.on(nil)
	// The question that asks whether all is well again has half a minute.
	within(t, 35*time.Second, "state ok", func() bool { return e.state() == mesh.SourceOK })
	s.put(apiKey, 2)
	e.has("api", 2)
}

func TestWithoutAnEventStreamTheListTells(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.lines = nil
	s.put(apiKey, 1)
	e := listenTo(t, s, Options{})
	within(t, 20*time.Second, "the first word", e.complete)
	s.put(apiKey, 2)
	e.has("api", 2)
	s.drop(apiKey)
	e.has("api", 0)
}

func TestTheStreamTellsWhereTheListDoesNot(t *testing.T) {
	t.Parallel()
	s, e := started(t, Options{})
	s.on(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/v1/services" {
			<-r.Context().Done()
		}
		return r.URL.Path == "/v1/services"
	})
	s.put(apiKey, 3) // answers the list that waits now; its next hangs
	e.has("api", 3)
	s.put(apiKey, 4)
	e.has("api", 4)
}

func TestAListOfAllNamespacesThatLeavesSomeOut(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.put(apiKey, 1)
	var narrow atomic.Bool
	narrow.Store(true)
	s.on(func(w http.ResponseWriter, r *http.Request) bool {
		ns := r.URL.Query().Get("namespace")
		if narrow.Load() && (strings.HasPrefix(ns, "kerege-") || ns == "team") {
			http.Error(w, "Permission denied", http.StatusForbidden)
			return true
		}
		return false
	})
	e := listenTo(t, s, Options{Namespaces: []string{"*"}})
	e.becomes(mesh.SourceFiltered)
	if e.complete() || !strings.Contains(e.src.Report().Err, `namespace "*" { policy = "read" }`) {
		t.Errorf("all was said: %+v", e.src.Report())
	}
	s.put(key{"team", "api"}, 2)
	narrow.Store(false)
	e.has("api", 2)
	within(t, 20*time.Second, "the mark", e.complete)

	narrow.Store(true) // and from here on team's are left out
	s.mu.Lock()
	team := s.regs[key{"team", "api"}]
	s.mu.Unlock()
	s.do(func() { delete(s.regs, key{"team", "api"}) })
	e.becomes(mesh.SourceFiltered)
	e.keeps("api", 2)
	narrow.Store(false)
	s.do(func() { s.regs[key{"team", "api"}] = team })
	e.becomes(mesh.SourceOK)
	e.keeps("api", 2)
}

func TestANamespaceThatIsSilentHoldsItsNames(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.put(apiKey, 1)
	s.put(key{"team", "api"}, 2)
	var refuse atomic.Bool
	refuse.Store(true)
	s.on(func(w http.ResponseWriter, r *http.Request) bool {
		if bad := refuse.Load() && r.URL.Query().Get("namespace") == "team"; bad {
			http.Error(w, "Permission denied", http.StatusForbidden)
			return true
		}
		return false
	})
	e := listenTo(t, s, Options{Namespaces: []string{"team", "default"}})
	e.becomes(mesh.SourceDenied)
	within(t, 20*time.Second, "the half that is seen", func() bool { return s.count("/v1/allocation/alloc-default-api-1") > 0 })
	time.Sleep(300 * time.Millisecond) // nothing may happen in it
	e.mu.Lock()
	if e.said > 0 {
		t.Errorf("half of api was said: %+v", e.parts)
	}
	e.mu.Unlock()
	refuse.Store(false)
	e.has("api", 2)
}

func TestChecks(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	r := s.put(apiKey, 1)
	s.mu.Lock()
	s.statuses[r.AllocID] = "pending"
	s.mu.Unlock()
	var broken atomic.Bool
	s.on(func(w http.ResponseWriter, r *http.Request) bool {
		if broken.Load() && strings.HasSuffix(r.URL.Path, "/checks") {
			http.Error(w, "No path to node", http.StatusInternalServerError)
			return true
		}
		if id, ok := strings.CutPrefix(r.URL.Path, "/v1/allocation/"); ok {
			s.answer(w, map[string]any{"ID": id, "Namespace": "default", "NodeName": "vm-1", "TaskGroup": "g", "ClientStatus": "running", "ModifyIndex": 5,
				"Job": map[string]any{"TaskGroups": []any{map[string]any{"Name": "g", "Services": []any{map[string]any{
					"Name": "api", "Provider": "nomad", "Meta": map[string]string{"kerege-version": "v1", "x": "${attr.cpu.arch}"}, "Checks": []any{map[string]any{}}}}}}}})
			return true
		}
		return false
	})
	e := listenTo(t, s, Options{CheckEvery: 200 * time.Millisecond})
	health := func() mesh.Health { return e.of("api")[0].Health }
	e.has("api", 1)
	if in := e.of("api")[0]; in.Health != mesh.Unhealthy || in.Meta["kerege-version"] != "v1" || len(in.Meta) != 1 {
		t.Fatalf("%+v", in)
	}
	set := func(status string) {
		s.mu.Lock()
		s.statuses[r.AllocID] = status
		s.mu.Unlock()
	}
	set("success")
	within(t, 20*time.Second, "health", func() bool { return health() == mesh.Healthy })
	set("failure")
	within(t, 20*time.Second, "failure", func() bool { return health() == mesh.Unhealthy })
	set("success")
	within(t, 20*time.Second, "health", func() bool { return health() == mesh.Healthy })
	broken.Store(true)
	path := "/v1/client/allocation/" + r.AllocID + "/checks"
	before := s.count(path)
	within(t, 20*time.Second, "a poll that fails", func() bool { return s.count(path) > before })
	if health() != mesh.Healthy || e.state() != mesh.SourceOK {
		t.Errorf("a client that cannot be asked: health %d, %+v", health(), e.src.Report())
	}
}

// Callers wait for an application that comes up, and the order of its start and
// its check's first run is anybody's.
func TestAnApplicationThatComesUpIsNoticedAtOnce(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	r := s.put(apiKey, 1)
	set := func(status string) {
		s.mu.Lock()
		s.statuses[r.AllocID] = status
		s.mu.Unlock()
	}
	set("failure")
	s.on(func(w http.ResponseWriter, r *http.Request) bool {
		id, ok := strings.CutPrefix(r.URL.Path, "/v1/allocation/")
		if ok {
			s.answer(w, map[string]any{"ID": id, "Namespace": "default", "NodeName": "vm-1", "TaskGroup": "g", "ClientStatus": "running", "ModifyIndex": 5,
				"Job": map[string]any{"TaskGroups": []any{map[string]any{"Name": "g", "Services": []any{map[string]any{
					"Name": "api", "Provider": "nomad", "Checks": []any{map[string]any{}}}}}}}})
		}
		return ok
	})
	e := listenTo(t, s, Options{CheckEvery: time.Hour})
	e.has("api", 1)
	path := "/v1/client/allocation/" + r.AllocID + "/checks"
	within(t, 20*time.Second, "a second poll of what has failed", func() bool { return s.count(path) > 1 })
	set("success")
	within(t, 20*time.Second, "health", func() bool { return e.of("api")[0].Health == mesh.Healthy })
	before := s.count(path)
	time.Sleep(2500 * time.Millisecond) // it is not asked meanwhile
	if n := s.count(path); n > before {
		t.Errorf("what has come up is asked each second: %d times more", n-before)
	}
}

func TestAnAllocationThatIsStoppedDrains(t *testing.T) {
	t.Parallel()
	s, e := started(t, Options{})
	id := e.of("api")[0].Workload
	s.do(func() {
		s.lines = s.tell(`{"Allocation":{"ID":%q,"DesiredStatus":"stop","ClientStatus":"running","ModifyIndex":%d}}`, id, s.index+1)
		// An event from the past, as a new stream may tell, changes nothing.
		s.lines = s.tell(`{"Allocation":{"ID":%q,"DesiredStatus":"run","ClientStatus":"failed","ModifyIndex":%d}}`, id, s.index)
	})
	within(t, 20*time.Second, "draining", func() bool { return e.of("api")[0].Health == mesh.Draining })
	if e.of("api")[1].Health != mesh.Healthy {
		t.Error("the other drains too")
	}
}

func TestANewTokenInTheFileMends(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "token")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("first")
	s := newScript(t)
	s.put(apiKey, 1)
	var good atomic.Value
	good.Store("first")
	s.on(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path != "/v1/status/leader" && r.Header.Get("X-Nomad-Token") != good.Load() {
			http.Error(w, "Permission denied", http.StatusForbidden)
			return true
		}
		return false
	})
	e := listenTo(t, s, Options{TokenFile: file})
	e.has("api", 1)
	good.Store("the second")
	s.put(apiKey, 2)
	e.becomes(mesh.SourceDenied)
	e.keeps("api", 1)
	write("the second")
	e.has("api", 2)
	e.becomes(mesh.SourceOK)
}

func TestAllIsSaidOnlyWhenAllWasRead(t *testing.T) {
	t.Parallel()
	s := newScript(t)
	s.put(apiKey, 1)
	s.put(key{"default", "other"}, 1)
	s.on(func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/v1/service/api" {
			http.Error(w, "boom", http.StatusInternalServerError)
			return true
		}
		return false
	})
	e := listenTo(t, s, Options{})
	e.has("other", 1)
	e.becomes(mesh.SourceError)
	if e.complete() {
		t.Error("all was said without api")
	}
	s.on(nil)
	within(t, 20*time.Second, "the mark", e.complete)
	e.keeps("api", 1)
}

func TestAFullReadFindsWhatNothingToldOf(t *testing.T) {
	t.Parallel()
	s, e := started(t, Options{Reread: 2 * time.Second})
	e.becomes(mesh.SourceOK)
	// What the stream's start has read must be over, or it finds the change first.
	within(t, 20*time.Second, "the stream", func() bool { return e.src.Report().Watches == 2 })
	for n := -1; n != s.count("/v1/service/api"); time.Sleep(300 * time.Millisecond) {
		n = s.count("/v1/service/api")
	}
	s.mu.Lock()
	s.regs[apiKey] = s.regs[apiKey][:1]
	s.mu.Unlock()
	e.has("api", 1)
	if n := e.src.Report().Healed; n != 1 {
		t.Errorf("%d changes were counted", n)
	}
}
