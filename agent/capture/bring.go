package capture

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
)

// bring makes every namespace hold what the record says. It writes nothing
// where all is as it should be.
func (m *Manager) bring(ctx context.Context, s *state, force bool) (changed bool, err error) {
	c := m.effective(s.Config)
	stale, err := m.staleSlices(s, c)
	if err != nil {
		return false, err
	}
	var errs []error
	for _, netns := range spaces(s, c) {
		part := c.in(netns)
		work := func() (bool, error) { return m.cleanSpace(ctx, s, netns) }
		if len(part.Workloads) > 0 || part.DNSHost {
			work = func() (bool, error) { return m.bringSpace(ctx, s, netns, part, force || stale) }
		} else if _, touched := s.Backends[netns]; !touched {
			continue
		}
		did, err := work()
		changed = changed || did
		if errors.Is(err, errGone) {
			delete(s.Backends, netns)
			delete(m.backends, netns)
			delete(m.stolen, netns)
			m.o.Log.Info("a network namespace is gone, and its capture with it", "namespace", netns)
			continue
		}
		if err != nil && netns != "" {
			err = fmt.Errorf("in network namespace %s: %w", netns, err)
		}
		errs = append(errs, err)
	}
	return changed, errors.Join(errs...)
}

// bringSpace is bring for one namespace.
func (m *Manager) bringSpace(ctx context.Context, s *state, netns string, c Config, force bool) (changed bool, err error) {
	targets, ipv6, err := m.targets(ctx, s, netns, Rules(c))
	if err != nil {
		return false, err
	}
	if s.Backends == nil {
		s.Backends = map[string]string{}
	}
	if known := s.Backends[netns]; known != m.backends[netns].Name {
		// Recorded first: a kill after this must find the right tables.
		s.Backends[netns] = m.backends[netns].Name
		if err := m.save(*s); err != nil {
			return false, err
		}
	}
	var routed bool
	err = InNamespace(netns, func() (err error) { routed, err = addRoutes(ipv6); return err })
	if err != nil {
		return routed, err
	}
	changed, err = apply(targets, force)
	if err == nil && !changed { // else the jumps may be where they were not; it is looked at again
		changed, err = m.lead(netns, targets, c)
	}
	return changed || routed, err
}

// targets opens the tables of one namespace and reads them.
func (m *Manager) targets(ctx context.Context, s *state, netns string, rules []Rule) (out []*target, ipv6 bool, err error) {
	var b Backend
	err = InNamespace(netns, func() error {
		ipv6 = hasIPv6()
		var err error
		b, err = m.backend(ctx, s, netns)
		return err
	})
	if err != nil {
		return nil, false, err
	}
	if b.V6 == "" && ipv6 {
		return nil, false, errors.New("finding ip6tables: this host speaks IPv6, and without ip6tables its calls by IPv6 would go around the mesh: apt-get install iptables, or turn IPv6 off (sysctl net.ipv6.conf.all.disable_ipv6=1)")
	}
	open := func(family Family, path string) {
		for _, table := range ownTables {
			out = append(out, &target{family: family, table: table, enter: func(do func() error) error { return InNamespace(netns, do) }})
			out[len(out)-1].open = func(t *target) error {
				k, err := m.tools.kernel(ctx, family, path, table, m.o.Wait)
				if err != nil {
					return err
				}
				return t.read(k, rules)
			}
		}
	}
	open(V4, b.V4)
	if b.V6 != "" && ipv6 {
		open(V6, b.V6)
	}
	return out, ipv6, each(out, func(t *target) error { return t.open(t) })
}

// backend is detected once and kept, for its rules must be found again.
func (m *Manager) backend(ctx context.Context, s *state, netns string) (Backend, error) {
	if b, known := m.backends[netns]; known {
		return b, nil
	}
	b, err := detect(ctx, m.o.Commands, s.Backends[netns])
	if err != nil {
		return Backend{}, err
	}
	if b.Warning != "" {
		m.o.Log.Warn("two packet filters", "warning", b.Warning)
	}
	m.backends[netns] = b
	return b, nil
}

// clean removes everything from every namespace that is known, and from this one.
func (m *Manager) clean(ctx context.Context, s *state) (changed bool, err error) {
	var errs []error
	c := Config{}
	if s.Config != nil {
		c = *s.Config
	}
	for _, netns := range spaces(s, c) {
		did, err := m.cleanSpace(ctx, s, netns)
		changed = changed || did
		if !errors.Is(err, errGone) {
			errs = append(errs, err)
		}
	}
	return changed, errors.Join(errs...)
}

func (m *Manager) cleanSpace(ctx context.Context, s *state, netns string) (changed bool, err error) {
	targets, _, err := m.targets(ctx, s, netns, nil)
	if errors.Is(err, errNoIPTables) {
		return false, nil // nothing can have been written
	}
	if err != nil {
		return false, err
	}
	gone := make([]bool, len(targets))
	for i, t := range targets {
		t.index = i
	}
	delete(m.stolen, netns)
	err = each(targets, func(t *target) (err error) { gone[t.index], err = remove(t.tables); return err })
	for _, did := range gone {
		changed = changed || did
	}
	if err != nil {
		return changed, err
	}
	err = InNamespace(netns, func() error {
		did, err := removeRoutes()
		changed = changed || did
		return err
	})
	if err == nil {
		delete(s.Backends, netns)
	}
	return changed, err
}

// staleSlices tells whether a slice was made anew since its rules were: they
// look the same and match nothing.
func (m *Manager) staleSlices(s *state, c Config) (bool, error) {
	stale := false
	now := map[string]uint64{}
	for _, w := range c.Workloads {
		if w.Slice == "" || w.down {
			continue
		}
		path := filepath.Join(cgroupMount(), w.Slice)
		info, err := os.Stat(path)
		if err != nil {
			return false, &Stop{w.Name, fmt.Sprintf("its slice %s does not exist", w.Slice), "start a unit that stays in it, or its rules cannot be made"}
		}
		inode := info.Sys().(*syscall.Stat_t).Ino
		if was, known := s.Cgroups[w.Slice]; !known || was != inode {
			stale = true
		}
		now[w.Slice] = inode
	}
	s.Cgroups = now
	if len(now) == 0 {
		s.Cgroups = nil
	}
	return stale, nil
}
