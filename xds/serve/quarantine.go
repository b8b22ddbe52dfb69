package serve

import (
	"sync"
	"sync/atomic"

	"github.com/kerege/kerege/xds/delta"
)

// suspect is one resource as one Envoy version reads it.
type suspect struct{ envoy, typ, version string }

// quarantine knows which resources were refused by two proxies of one Envoy
// version: one alone may be hostile or broken, two are believed.
type quarantine struct {
	mu      sync.Mutex
	by      map[suspect]string               // the first proxy that refused it
	blocked atomic.Pointer[map[suspect]bool] // replaced, never changed
}

// maxSuspects bounds what a client that refuses everything can make us remember.
const maxSuspects = 4096

// nacked returns true when the resource is blocked by this refusal.
func (q *quarantine) nacked(s suspect, id string) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	first, known := q.by[s]
	if !known {
		if q.by == nil || len(q.by) >= maxSuspects {
			q.by = map[suspect]string{}
		}
		q.by[s] = id
		return false
	}
	if first == id || q.has(s) {
		return false
	}
	next := map[suspect]bool{s: true}
	if old := q.blocked.Load(); old != nil && len(*old) < maxSuspects {
		for k := range *old {
			next[k] = true
		}
	}
	q.blocked.Store(&next)
	return true
}

func (q *quarantine) has(s suspect) bool {
	b := q.blocked.Load()
	return b != nil && (*b)[s]
}

// refused is called for every resource that a session looks at, under its lock.
func (st *stream) refused(r *delta.Resource) bool {
	if st.server.refused.blocked.Load() == nil {
		return false
	}
	return st.server.refused.has(suspect{st.version, r.Type, r.Version})
}

func (st *stream) nacked(n delta.Nack) {
	log := st.server.cfg.Logger
	log.Warn("resource refused", "proxy", st.id, "type", n.Type, "name", n.Name, "version", n.Version, "kept", n.Held, "cause", n.Cause, "words", n.Words)
	if st.server.refused.nacked(suspect{st.version, n.Type, n.Version}, st.id) {
		log.Error("resource refused by two proxies is sent to no other", "type", n.Type, "name", n.Name, "version", n.Version, "envoy", st.version)
	}
}
