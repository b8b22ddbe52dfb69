package capture

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// RemoveOrphaned is Orphaned for a caller that does not stay: the DNS jump
// remains where the agent's stand-in answers. Rules of which there is no record
// are an error, *Unrecorded.
func (m *Manager) RemoveOrphaned(ctx context.Context) (orphan bool, err error) {
	s, err := m.file.load()
	if errors.Is(err, fs.ErrNotExist) {
		return m.unrecorded(ctx)
	}
	if err == nil && s.Config != nil && s.Config.DNS {
		// Before the lock, which a stand-in needs, too.
		answered := answers(s.Config.dnsPort())
		m.o.KeepDNS = func() bool { return answered }
	}
	if orphan, err = m.Orphaned(ctx); err != nil {
		return orphan, fmt.Errorf("taking out what must not stay without an agent: %w", err)
	}
	return orphan, nil
}

func answers(port uint16) bool {
	return askProbe(netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)) == nil
}

// Unrecorded says that the packet filter holds rules of ours of which StateDir
// knows nothing, as after data_dir was moved.
type Unrecorded struct {
	Dir    string
	Chains []string
}

func (u *Unrecorded) Error() string {
	return fmt.Sprintf("the packet filter holds kerege's rules (%s), and %s has no record of them. Was data_dir moved? Then name its folder capture: kerege capture remove -if-orphaned -state-dir DIR. "+
		"Where nobody answers names, queries go to the host's own resolvers again; calls still go to the proxies, for they would go around them in the clear. To take all out, start an agent: kerege capture remove",
		strings.Join(u.Chains, ", "), u.Dir)
}

// unrecorded does with rules that nobody knows of what can be told from them
// alone: queries that nobody answers are let go, and the rest stays.
func (m *Manager) unrecorded(ctx context.Context) (orphan bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	targets, _, err := m.targets(ctx, &state{}, "", nil)
	if errors.Is(err, errNoIPTables) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	u := &Unrecorded{Dir: m.o.StateDir}
	answered := map[uint16]bool{}
	for _, t := range targets {
		for _, c := range t.now.ours() {
			if !slices.Contains(u.Chains, c) {
				u.Chains = append(u.Chains, c)
			}
		}
		if err := t.dropQueries(answered); err != nil {
			return true, fmt.Errorf("letting queries go that nobody answers: %w", err)
		}
	}
	if len(u.Chains) == 0 {
		return false, nil
	}
	return true, u
}

// dropQueries takes out the redirects of port 53 that lead to nobody, rule by rule.
func (t *target) dropQueries(answered map[uint16]bool) error {
	live := (hook{"OUTPUT", chainOut}).live(t.now)
	for _, rule := range t.now.chains[live] {
		_, to, redirects := strings.Cut(rule, "--dport 53 -j REDIRECT --to-ports ")
		port, err := strconv.ParseUint(to, 10, 16)
		if !redirects || err != nil {
			continue
		}
		known, asked := answered[uint16(port)]
		if !asked {
			known = answers(uint16(port))
			answered[uint16(port)] = known
		}
		if known {
			continue
		}
		if err := t.tables.Delete(live, split(rule)...); err != nil {
			return err
		}
	}
	return nil
}
