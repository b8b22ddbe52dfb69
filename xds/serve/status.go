package serve

import (
	"cmp"
	"slices"
	"time"

	"github.com/kerege/kerege/xds/delta"
)

// ProxyStatus is one stream as the operator sees it.
type ProxyStatus struct {
	ID      string
	Serial  uint64 // tells streams of one proxy apart; a later one has a higher number
	Peer    string // address
	Envoy   string // version
	Since   time.Time
	Waiting bool // for its first set
	Behind  bool // its latest set is still in the mailbox, so Status is of the one before
	Counters
	Unacked time.Time // the oldest message without an answer; zero: none
	delta.Status
}

// Status is a row for each open stream, sorted by proxy, then by age.
func (s *Server) Status() []ProxyStatus {
	s.mu.Lock()
	var streams []*stream
	for _, p := range s.proxies {
		for st := range p.streams {
			streams = append(streams, st)
		}
	}
	s.mu.Unlock()
	out := make([]ProxyStatus, 0, len(streams))
	for _, st := range streams {
		st.mu.Lock()
		out = append(out, ProxyStatus{ID: st.id, Serial: st.serial, Peer: st.peer, Envoy: st.version, Since: st.since,
			Waiting: st.mail.Load() == nil, Behind: st.behind(), Counters: st.count, Unacked: st.session.Unacked(), Status: st.session.Status()})
		st.mu.Unlock()
	}
	slices.SortFunc(out, func(a, b ProxyStatus) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Serial, b.Serial))
	})
	return out
}
