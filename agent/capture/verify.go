package capture

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

// ProbePort is where probes go at a virtual address that no service has.
const ProbePort = 1

var probeAddrs = map[Family]netip.Addr{V4: Virtual4.Addr(), V6: Virtual6.Addr()}

// Probe is one thing that Verify tried.
type Probe struct {
	Workload string        `json:"workload,omitempty"`
	What     string        `json:"what"` // tables | outbound | inbound | dns
	Family   Family        `json:"family,omitempty"`
	OK       bool          `json:"ok"`
	Why      string        `json:"why,omitempty"` // what is wrong, and what mends it
	Took     time.Duration `json:"took"`
}

// Passed tells whether every probe was well, and there was one.
func Passed(probes []Probe) bool {
	return len(probes) > 0 && !slices.ContainsFunc(probes, func(p Probe) bool { return !p.OK })
}

// Verify finds out by trying whether the capture works: a connection made as
// each workload must arrive at its Envoy's outbound port, its query at the
// resolver, and the tables and listeners for its inbound traffic must stand (a
// host cannot call itself from outside). To make a connection as another user
// takes CAP_SETUID.
func (m *Manager) Verify(ctx context.Context) ([]Probe, error) {
	var out []Probe
	err := m.locked(func(s *state) error {
		if s.Config == nil {
			return errors.New("verifying the capture: nothing is captured: kerege capture apply")
		}
		c := m.effective(s.Config)
		for _, netns := range c.namespaces() {
			part := c.in(netns)
			if len(part.Workloads) == 0 {
				continue
			}
			tables := m.probeTables(ctx, s, netns, part)
			out = append(out, tables)
			for _, w := range part.Workloads {
				out = append(out, m.probeWorkload(ctx, part, w, tables)...)
			}
		}
		return nil
	})
	return out, err
}

func (m *Manager) probeTables(ctx context.Context, s *state, netns string, c Config) Probe {
	p := Probe{What: "tables"}
	begin := time.Now()
	targets, _, err := m.targets(ctx, s, netns, Rules(c))
	p.Took = time.Since(begin)
	switch {
	case err != nil:
		p.Why = err.Error()
	case slices.ContainsFunc(targets, func(t *target) bool { return !t.settled() }):
		p.Why = "the rules are not as they should be: another program changed them (they come back within seconds), or kerege capture apply did not end"
	default:
		for _, t := range targets {
			if ahead := t.stolen(c); len(ahead) > 0 {
				p.Why = overtaken(ahead)
				return p
			}
		}
		p.OK = true
	}
	return p
}

func (m *Manager) probeWorkload(ctx context.Context, c Config, w Workload, tables Probe) []Probe {
	if w.down {
		return []Probe{{Workload: w.Name, What: "outbound", Why: "its Envoy is gone and on_envoy_down is bypass: calls go around the mesh until it is back"}}
	}
	var out []Probe
	families := []Family{V4}
	ipv6 := false
	if err := InNamespace(w.Netns, func() error { ipv6 = hasIPv6(); return nil }); err == nil && ipv6 {
		families = append(families, V6)
	}
	for _, family := range families {
		if w.OutboundPort != 0 {
			out = append(out, m.try(w, "outbound", family, func() error { return m.probeOutbound(ctx, c, w, family) }))
		}
		if c.DNS && w.Slice == "" {
			out = append(out, m.try(w, "dns", family, func() error {
				return asWorkload(c, w, func() error { return askProbe(netip.AddrPortFrom(probeAddrs[family], 53)) })
			}))
		}
	}
	if w.InboundPort != 0 && len(w.Ports) > 0 {
		out = append(out, m.try(w, "inbound", 0, func() error {
			if !tables.OK {
				return errors.New(tables.Why)
			}
			if !listening(w.Netns, w.InboundPort) {
				return fmt.Errorf("nothing listens on the inbound port %d: is its Envoy running (kerege envoy -service %s)", w.InboundPort, w.Name)
			}
			return nil
		}))
	}
	return out
}

func (m *Manager) try(w Workload, what string, family Family, do func() error) Probe {
	begin := time.Now()
	p := Probe{Workload: w.Name, What: what, Family: family}
	if err := do(); err != nil {
		p.Why = err.Error()
	} else {
		p.OK = true
	}
	p.Took = time.Since(begin)
	return p
}

func (m *Manager) probeOutbound(ctx context.Context, c Config, w Workload, family Family) error {
	if !listening(w.Netns, w.OutboundPort) {
		return fmt.Errorf("nothing listens on the outbound port %d: is its Envoy running (kerege envoy -service %s)", w.OutboundPort, w.Name)
	}
	to := netip.AddrPortFrom(probeAddrs[family], ProbePort)
	if w.Slice != "" {
		return m.probeSlice(ctx, w, to)
	}
	return asWorkload(c, w, func() error {
		fd, from, err := connect(to)
		if err != nil {
			return fmt.Errorf("a connection as the workload does not arrive: %w", err)
		}
		defer syscall.Close(fd)
		return arrived(from, w.OutboundPort)
	})
}

// arrived looks for the other end of a connection at Envoy's port.
func arrived(from netip.AddrPort, port uint16) error {
	all, err := sockets()
	if err != nil {
		return err
	}
	for _, s := range all {
		if s.peer == from && s.local.Port() == port {
			return nil
		}
	}
	for _, s := range all {
		if s.peer == from {
			return fmt.Errorf("a connection as the workload arrives at port %d, not at its Envoy's %d", s.local.Port(), port)
		}
	}
	return fmt.Errorf("a connection as the workload does not arrive at its Envoy's port %d", port)
}

// probeSlice connects from a process in the slice.
func (m *Manager) probeSlice(ctx context.Context, w Workload, to netip.AddrPort) error {
	if len(m.o.Dial) == 0 {
		return errors.New("no command to connect from within a slice")
	}
	dir := filepath.Join(cgroupMount(), w.Slice, "kerege-verify.scope")
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("making a cgroup in slice %s: %w", w.Slice, err)
	}
	defer os.Remove(dir)
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("opening a cgroup in slice %s: %w", w.Slice, err)
	}
	defer d.Close()
	return dialFrom(ctx, m.o.Dial, to, int(d.Fd()), w.OutboundPort)
}
