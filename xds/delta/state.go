package delta

// State is how the whole stream stands: nacked when the client refused anything
// that stands refused, else stale when anything is to be sent or acknowledged,
// else synced. Unlike Status it copies nothing.
func (s *Session) State() State {
	worst := Synced
	for _, k := range s.order {
		switch k.state() {
		case Nacked:
			return Nacked
		case Stale:
			worst = Stale
		}
	}
	return worst
}
