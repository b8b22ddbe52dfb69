package consul_test

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/kerege/kerege/e2e/mockconsul"
	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/registry/consul"
)

func TestMoreServicesThanWatches(t *testing.T) {
	t.Parallel()
	m := mockconsul.New()
	t.Cleanup(m.Close)
	for i := range 30 {
		m.Set(fmt.Sprint("s", i), entries(fmt.Sprint("s", i), 1)...)
	}
	e := listen(t, consul.Options{Address: m.URL, MaxWatches: 10, Wanted: func() []string { return []string{"s29", "s7"} }})
	within(t, 10*time.Second, "the first word", e.complete)
	if w := e.src.Report().Watches; w != 10 {
		t.Errorf("%d watches", w)
	}
	m.Set("s29", entries("s29", 2)...)
	within(t, time.Second, "a wanted service is watched", func() bool { return e.count("s29") == 2 })
	m.Set("s5", entries("s5", 3)...)
	within(t, 10*time.Second, "the others are read in turn", func() bool { return e.count("s5") == 3 })
}

func TestTooManyConnections(t *testing.T) {
	t.Parallel()
	m := mockconsul.New()
	t.Cleanup(m.Close)
	for i := range 30 {
		m.Set(fmt.Sprint("s", i), entries(fmt.Sprint("s", i), 1)...)
	}
	var mu sync.Mutex
	open := 0
	m.Script(func(w http.ResponseWriter, r *http.Request) bool {
		if !service(r) || r.URL.Query().Get("index") == "" {
			return false
		}
		mu.Lock()
		defer mu.Unlock()
		if open >= 20 {
			http.Error(w, "too many connections", http.StatusTooManyRequests)
			return true
		}
		open++
		context.AfterFunc(r.Context(), func() { mu.Lock(); open--; mu.Unlock() })
		return false
	})
	e := listen(t, consul.Options{Address: m.URL})
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%+v, %d parts said, %d long polls", e.src.Report(), e.said(), func() int { mu.Lock(); defer mu.Unlock(); return open }())
		}
	})
	within(t, 30*time.Second, "the first word", e.complete)
	within(t, 20*time.Second, "fewer watches, no error", func() bool {
		r := e.src.Report()
		return r.Watches <= 20 && r.Watches > 5 && r.State == mesh.SourceOK
	})
}
