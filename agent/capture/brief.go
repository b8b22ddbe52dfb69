package capture

// Brief says from memory, without a look at the tables, whether a capture is on
// record, and whether the tables were as it wants them when last looked at:
// with the jumps before all that may take the workloads' traffic.
func (m *Manager) Brief() (applied, settled bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	applied = m.last != nil && m.last.Config != nil
	return applied, applied && m.settled && len(m.stolen) == 0
}

// Overtaken counts the rules of others that stand before ours, may take the
// workloads' traffic and are left there.
func (m *Manager) Overtaken() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := 0
	for _, rules := range m.stolen {
		n += len(rules)
	}
	return n
}
