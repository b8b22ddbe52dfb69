package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/kerege/kerege/agent/seal"
	"github.com/kerege/kerege/durable"
)

// state is what the node remembers across restarts, with every server away.
// It holds no secret.
type state struct {
	Version     int               `json:"version"`
	Placed      []placement       `json:"placement"`
	Names       []name            `json:"names"`
	Bundle      string            `json:"bundle,omitempty"` // PEM
	TrustDomain string            `json:"trust_domain,omitempty"`
	Accepted    []string          `json:"accepted"`      // by a server, durably
	Heard       time.Time         `json:"heard"`         // the last update of a server
	Slots       map[string]int    `json:"slots"`         // of each workload, for its ports
	In          map[string]bool   `json:"in"`            // workloads that are in the mesh
	Left        map[string]bool   `json:"left"`          // workloads that left by hand
	Out         map[string]string `json:"out,omitempty"` // workloads that were in and are not captured any more, and why
	Evicted     bool              `json:"evicted,omitempty"`
	Spaces      map[string]space  `json:"spaces,omitempty"` // network namespaces of allocations, by workload
}

// placement is one service that the registries place on this node.
type placement struct {
	Service   string   `json:"service"`
	Workload  string   `json:"workload,omitempty"`
	Ports     []uint16 `json:"ports,omitempty"`
	Addresses []string `json:"addresses,omitempty"`
	Source    string   `json:"source,omitempty"`
	MTLS      string   `json:"mtls,omitempty"`   // strict | permissive | disabled; "": a server that does not say
	Inside    bool     `json:"inside,omitempty"` // an allocation with a network namespace of its own, and Ports are those in it
	Gone      bool     `json:"gone,omitempty"`   // no registry says so any more, and it has not left
}

func (p placement) key() string { return key(p.Service, p.Workload) }

// key names a workload of this node: "<service>[/<workload>]".
func key(service, workload string) string {
	if workload == "" {
		return service
	}
	return service + "/" + workload
}

// name is a mesh name that resolves on this node.
type name struct {
	Service string `json:"service"`
	V4      string `json:"v4,omitempty"`
	V6      string `json:"v6,omitempty"`
	Consul  bool   `json:"consul,omitempty"`
}

// known is a copy of the names; nil where no server ever said any.
func (s *state) known() []name {
	if s.Heard.IsZero() {
		return nil
	}
	return append([]name{}, s.Names...)
}

const stateVersion = 1

// memory keeps the state: read by copy, changed by functions, written behind.
type memory struct {
	path string
	log  hclog.Logger

	mu      sync.Mutex
	now     state
	lost    bool // the file was not there or not to be believed
	changed bool
	failed  string
	dirty   chan struct{}
}

// openMemory reads the file. One that is damaged is moved aside and said; the
// node then waits for a server.
func openMemory(path string, log hclog.Logger) *memory {
	m := &memory{path: path, log: log, dirty: make(chan struct{}, 1)}
	text, err := os.ReadFile(path)
	if err == nil {
		dec := json.NewDecoder(bytes.NewReader(text))
		if err = dec.Decode(&m.now); err == nil && m.now.Version != stateVersion {
			err = fmt.Errorf("it is of version %d, and this kerege reads %d", m.now.Version, stateVersion)
		}
		if err != nil {
			to, e := seal.Aside(path, time.Now())
			if e != nil {
				to = e.Error()
			}
			log.Error("what this node remembered is refused; it waits for a server", "file", path, "because", err, "kept as", to)
			m.now, m.lost = state{}, true
		}
	} else {
		m.lost = true
		if !errors.Is(err, fs.ErrNotExist) {
			log.Error("what this node remembers cannot be read; it waits for a server", "error", err)
		}
	}
	m.now.Version = stateVersion
	m.now.fill()
	return m
}

func (s *state) fill() {
	if s.Slots == nil {
		s.Slots = map[string]int{}
	}
	if s.In == nil {
		s.In = map[string]bool{}
	}
	if s.Spaces == nil {
		s.Spaces = map[string]space{}
	}
	if s.Left == nil {
		s.Left = map[string]bool{}
	}
	if s.Out == nil {
		s.Out = map[string]string{}
	}
}

// look runs f on the state; f must not keep or change its maps.
func (m *memory) look(f func(*state)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f(&m.now)
}

// change runs f and has the result written soon. f replaces slices, never edits
// them.
func (m *memory) change(f func(*state)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f(&m.now)
	m.changed = true
	poke(m.dirty)
}

// slot is the number that a workload's ports are counted from: the smallest that
// is free, and the same for ever.
func (m *memory) slot(key string) int {
	m.mu.Lock()
	defer m.mu.Unlock()
	if i, known := m.now.Slots[key]; known {
		return i
	}
	var taken []int
	for _, i := range m.now.Slots {
		taken = append(taken, i)
	}
	i := 0
	for slices.Contains(taken, i) {
		i++
	}
	m.now.Slots[key] = i
	m.changed = true
	poke(m.dirty)
	return i
}

// save writes what changed.
func (m *memory) save() error {
	m.mu.Lock()
	if !m.changed {
		m.mu.Unlock()
		return nil
	}
	text, err := json.Marshal(&m.now)
	m.changed = false
	m.mu.Unlock()
	if err == nil {
		err = durable.WriteFile(m.path, append(text, '\n'))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil {
		m.changed = true
		if m.failed == "" {
			m.log.Error("what this node knows cannot be kept on disk; going on from memory", "error", err)
		}
		m.failed = err.Error()
		return fmt.Errorf("keeping the node's state: %w", err)
	}
	m.failed = ""
	return nil
}

// problem is why nothing is kept; "": it is.
func (m *memory) problem() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.failed
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
