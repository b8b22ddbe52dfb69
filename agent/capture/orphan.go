package capture

import (
	"context"
	"fmt"
	"net/netip"
)

// RemoveOrphaned is Orphaned for a caller that does not stay: the DNS jump
// remains where the agent's stand-in answers.
func (m *Manager) RemoveOrphaned(ctx context.Context) (orphan bool, err error) {
	s, err := m.file.load()
	if err == nil && s.Config != nil && s.Config.DNS {
		// Before the lock, which a stand-in needs, too.
		answered := askProbe(netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), s.Config.dnsPort())) == nil
		m.o.KeepDNS = func() bool { return answered }
	}
	if orphan, err = m.Orphaned(ctx); err != nil {
		return orphan, fmt.Errorf("taking out what must not stay without an agent: %w", err)
	}
	return orphan, nil
}
