package serve

import "github.com/kerege/kerege/xds/delta"

// State is how a proxy stands, by its newest stream; "" when it has none. It is
// cheap, where Status copies what every proxy has.
func (s *Server) State(id string) delta.State {
	s.mu.Lock()
	st := s.proxies[id].newest()
	s.mu.Unlock()
	if st == nil {
		return ""
	}
	return st.state()
}

// Counts is how many proxies stand how.
func (s *Server) Counts() map[delta.State]int {
	s.mu.Lock()
	all := make([]*stream, 0, len(s.proxies))
	for _, p := range s.proxies {
		if st := p.newest(); st != nil {
			all = append(all, st)
		}
	}
	s.mu.Unlock()
	counts := map[delta.State]int{}
	for _, st := range all {
		counts[st.state()]++
	}
	return counts
}

// newest is the stream that opened last; the server's mu is held.
func (p *proxy) newest() (newest *stream) {
	if p == nil {
		return nil
	}
	for st := range p.streams {
		if newest == nil || st.serial > newest.serial {
			newest = st
		}
	}
	return newest
}

// state counts a wish that lies in the mailbox as not yet sent.
func (st *stream) state() delta.State {
	st.mu.Lock()
	defer st.mu.Unlock()
	if state := st.session.State(); state == delta.Nacked || !st.behind() {
		return state
	}
	return delta.Stale
}

// behind says whether the mailbox holds what the session has not heard of, or
// nothing yet. mu is held.
func (st *stream) behind() bool {
	wish := st.mail.Load()
	return wish == nil || wish != st.wanted
}
