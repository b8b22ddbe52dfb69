// Package mockconsul is a scripted Consul agent for tests: it answers the three
// questions that registry/consul asks, with indexes, headers, errors and delays
// that a real one shows only on its worst days.
package mockconsul

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
)

// Server is one agent. Its zero script is a healthy agent without services.
type Server struct {
	*httptest.Server

	mu       sync.Mutex
	index    uint64
	services map[string][]*api.ServiceEntry
	moved    map[string]uint64 // the index of each service
	changed  chan struct{}
	script   func(w http.ResponseWriter, r *http.Request) bool
	counts   map[string]int
}

// New starts an agent on loopback. Close stops it.
func New() *Server {
	s := &Server{index: 10, services: map[string][]*api.ServiceEntry{}, moved: map[string]uint64{}, changed: make(chan struct{}), counts: map[string]int{}}
	s.Server = httptest.NewServer(http.HandlerFunc(s.answer))
	return s
}

// Close stops the agent and cuts its long polls.
func (s *Server) Close() {
	s.Server.CloseClientConnections()
	s.Server.Close()
}

// Set replaces a service's instances in one index; none deregisters it.
func (s *Server) Set(name string, entries ...*api.ServiceEntry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.index++
	s.services[name] = entries
	if len(entries) == 0 {
		delete(s.services, name)
	}
	s.moved[name] = s.index
	close(s.changed)
	s.changed = make(chan struct{})
}

// Rewind sets the index back, as a restored snapshot does, and wakes long polls.
func (s *Server) Rewind(index uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.index = index
	for n := range s.moved {
		s.moved[n] = index
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

// Script is asked first for every request, and answers it when it returns true;
// nil asks nobody. Long polls that wait are woken, so that it takes effect.
func (s *Server) Script(f func(w http.ResponseWriter, r *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.script = f
	close(s.changed)
	s.changed = make(chan struct{})
}

// Count is the number of requests whose path ends so.
func (s *Server) Count(suffix string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for path, c := range s.counts {
		if strings.HasSuffix(path, suffix) {
			n += c
		}
	}
	return n
}

// Headers writes what a healthy agent says beside an answer.
func Headers(w http.ResponseWriter, index uint64) {
	w.Header().Set("X-Consul-Index", strconv.FormatUint(index, 10))
	w.Header().Set("X-Consul-KnownLeader", "true")
	w.Header().Set("X-Consul-LastContact", "0")
	w.Header().Set("X-Consul-Query-Backend", "blocking-query")
}

// Write sends an answer's body.
func Write(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		fmt.Fprintln(w, err)
	}
}

func (s *Server) answer(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.counts[r.URL.Path]++
	s.mu.Unlock()
	name, health := strings.CutPrefix(r.URL.Path, "/v1/health/service/")
	if s.scripted(w, r) {
		return
	}
	if r.URL.Path == "/v1/status/leader" {
		Write(w, "10.0.0.1:8300")
		return
	}
	index, woken := s.wait(r, name)
	if woken && s.scripted(w, r) {
		return
	}
	Headers(w, index)
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case health:
		list := s.services[name]
		if list == nil {
			list = []*api.ServiceEntry{}
		}
		Write(w, list)
	case r.URL.Path == "/v1/catalog/services":
		names := map[string][]string{"consul": {}}
		for n := range s.services {
			names[n] = []string{}
		}
		Write(w, names)
	default:
		http.Error(w, "the mock does not know "+r.URL.Path, http.StatusNotFound)
	}
}

func (s *Server) scripted(w http.ResponseWriter, r *http.Request) bool {
	s.mu.Lock()
	f := s.script
	s.mu.Unlock()
	return f != nil && f(w, r)
}

// wait is a blocking query: until the service's index (any, for the list) is
// beyond the one asked for, the wait is over, or something was scripted.
func (s *Server) wait(r *http.Request, service string) (index uint64, woken bool) {
	asked, _ := strconv.ParseUint(r.URL.Query().Get("index"), 10, 64)
	limit, err := time.ParseDuration(r.URL.Query().Get("wait"))
	if err != nil {
		limit = 5 * time.Minute
	}
	over := time.After(limit)
	for {
		s.mu.Lock()
		now, changed := s.index, s.changed
		if m, ok := s.moved[service]; ok {
			now = m
		}
		s.mu.Unlock()
		if asked == 0 || now != asked {
			return now, woken
		}
		select {
		case <-changed:
			woken = true
			s.mu.Lock()
			scripted := s.script != nil
			s.mu.Unlock()
			if scripted {
				return now, true
			}
		case <-over:
			return now, woken
		case <-r.Context().Done():
			return now, woken
		}
	}
}

// Entry is one instance with a passing check.
func Entry(service, id, node, address string, port int) *api.ServiceEntry {
	return &api.ServiceEntry{
		Node: &api.Node{Node: node, Address: "10.9.9.9", Datacenter: "dc1"},
		Service: &api.AgentService{ID: id, Service: service, Address: address, Port: port,
			Weights: api.AgentWeights{Passing: 1, Warning: 1}},
		Checks: api.HealthChecks{{Node: node, CheckID: "serfHealth", Status: api.HealthPassing}},
	}
}
