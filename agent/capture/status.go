package capture

import (
	"context"
	"time"
)

// Status is what is captured now.
type Status struct {
	Applied    bool              `json:"applied"`
	Config     *Config           `json:"config,omitempty"`
	Deadline   time.Time         `json:"deadline,omitzero"` // when it is undone unless confirmed
	Pending    string            `json:"pending,omitempty"` // why it is not as it should be
	Repairs    int64             `json:"repairs"`
	Down       []string          `json:"down,omitempty"` // workloads gone around until their Envoy is back
	Namespaces []NamespaceStatus `json:"namespaces,omitempty"`
}

// NamespaceStatus is the tables of one network namespace.
type NamespaceStatus struct {
	Netns   string   `json:"netns,omitempty"`
	Backend string   `json:"backend"`
	Warning string   `json:"warning,omitempty"`
	Foreign int      `json:"foreign"` // rules of others, when the backend was chosen
	Settled bool     `json:"settled"` // as they should be
	Live    []string `json:"live,omitempty"`
	Ahead   []string `json:"ahead,omitempty"` // rules of others that may take the workloads' traffic before ours do
	Error   string   `json:"error,omitempty"`
}

// Status looks and writes nothing.
func (m *Manager) Status(ctx context.Context) (Status, error) {
	out := Status{Repairs: m.Repairs()}
	var before error
	m.mu.Lock()
	before = m.lastErr
	m.mu.Unlock()
	err := m.locked(func(s *state) error {
		out.Applied, out.Config, out.Deadline = s.Config != nil, s.Config, s.Deadline
		c := m.effective(s.Config)
		for _, w := range c.Workloads {
			if w.down {
				out.Down = append(out.Down, w.Name)
			}
		}
		for _, netns := range spaces(s, c) {
			if _, touched := s.Backends[netns]; touched {
				out.Namespaces = append(out.Namespaces, m.spaceStatus(ctx, s, netns, c.in(netns)))
			}
		}
		return before // kept: a look mends nothing
	})
	if before != nil && err == before {
		out.Pending, err = before.Error(), nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if out.Pending == "" {
		out.Pending = m.refused
	}
	return out, err
}

func (m *Manager) spaceStatus(ctx context.Context, s *state, netns string, c Config) NamespaceStatus {
	out := NamespaceStatus{Netns: netns, Settled: true}
	targets, _, err := m.targets(ctx, s, netns, Rules(c))
	if err != nil {
		out.Error, out.Settled = err.Error(), false
		return out
	}
	b := m.backends[netns]
	out.Backend, out.Warning, out.Foreign = b.Name, b.Warning, b.Foreign
	for _, t := range targets {
		out.Ahead = append(out.Ahead, t.stolen(c)...)
		out.Settled = out.Settled && t.settled() && len(out.Ahead) == 0
		for _, h := range hooksOf(t.table) {
			if live := h.live(t.now); live != "" {
				out.Live = append(out.Live, map[Family]string{V4: "ipv4 ", V6: "ipv6 "}[t.family]+live)
			}
		}
	}
	if len(out.Ahead) > 0 {
		out.Error = overtaken(out.Ahead)
	}
	return out
}
