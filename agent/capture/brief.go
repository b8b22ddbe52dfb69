package capture

// Brief says from memory, without a look at the tables, whether a capture is on
// record, and whether the tables were as it wants them when last looked at.
func (m *Manager) Brief() (applied, settled bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	applied = m.last != nil && m.last.Config != nil
	return applied, applied && m.settled
}
