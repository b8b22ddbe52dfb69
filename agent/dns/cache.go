package dns

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// cache keeps what resolvers said, to be served for a while when none answers.
// While one answers it is always asked: a host's own resolver caches already.
type cache struct {
	mu      sync.Mutex
	entries map[key]entry
}

type key struct {
	name  string
	qtype uint16
	class uint16
	do    bool
}

type entry struct {
	msg   *dns.Msg
	until time.Time
}

func keyOf(q *dns.Msg) key {
	k := key{name: strings.ToLower(q.Question[0].Name), qtype: q.Question[0].Qtype, class: q.Question[0].Qclass}
	if opt := q.IsEdns0(); opt != nil {
		k.do = opt.Do()
	}
	return k
}

func (c *cache) put(k key, m *dns.Msg, now time.Time) {
	if m.Len() > maxCachedBytes {
		return
	}
	life := 5 * time.Minute
	for _, rr := range slices.Concat(m.Answer, m.Ns) {
		life = min(life, time.Duration(rr.Header().Ttl)*time.Second)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.entries) >= maxCached {
		c.sweep(now)
	}
	c.entries[k] = entry{msg: m.Copy(), until: now.Add(life + staleFor)}
}

// sweep drops what is too old, and all when that is not enough.
func (c *cache) sweep(now time.Time) {
	for k, e := range c.entries {
		if now.After(e.until) {
			delete(c.entries, k)
		}
	}
	if len(c.entries) >= maxCached {
		clear(c.entries)
	}
}

// get is a copy of what was said, with a short life; nil when it is too old.
func (c *cache) get(k key, now time.Time) *dns.Msg {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.entries[k]
	if !ok || now.After(e.until) {
		delete(c.entries, k)
		return nil
	}
	m := e.msg.Copy()
	for _, rr := range slices.Concat(m.Answer, m.Ns) {
		rr.Header().Ttl = min(rr.Header().Ttl, ttl)
	}
	return m
}
