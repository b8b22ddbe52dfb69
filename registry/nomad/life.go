package nomad

import (
	"context"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/kerege/kerege/mesh"
)

// key is one service of one namespace.
type key struct{ namespace, name string }

func (k key) compare(o key) int {
	if c := strings.Compare(k.name, o.name); c != 0 {
		return c
	}
	return strings.Compare(k.namespace, o.namespace)
}

// life is all that one Watch knows.
type life struct {
	*Source
	all     sync.WaitGroup
	began   time.Time
	changed chan struct{} // there is something to publish

	mu       sync.Mutex
	beat     condition
	healed   chan struct{} // closed when Nomad answers again
	spaces   map[string]*space
	services map[key]*service
	names    map[string][]key // of services, by name
	allocs   map[string]*alloc
	nodes    map[string]*node
	dirty    map[string]bool // names to compose again
	said     map[string][]mesh.Instance
	marked   bool // all has been said once
}

// space is a namespace that is watched, or "*". All but its name is under life.mu.
type space struct {
	name string
	condition
	known     bool         // its list has been whole once
	names     map[key]bool // in the last usable list
	streaming bool
}

func newLife(s *Source) *life {
	l := &life{
		Source: s, began: s.opt.Now(), changed: make(chan struct{}, 1), healed: make(chan struct{}),
		spaces: map[string]*space{}, services: map[key]*service{}, names: map[string][]key{}, allocs: map[string]*alloc{}, nodes: map[string]*node{},
		dirty: map[string]bool{}, said: map[string][]mesh.Instance{},
	}
	for _, ns := range s.opt.Namespaces {
		l.spaces[ns] = &space{name: ns}
	}
	return l
}

// keys are sorted by name. l.mu is held.
func (l *life) keys() []key { return slices.SortedFunc(maps.Keys(l.services), key.compare) }

// pulse asks every few seconds whether there is a leader: a blocking query may
// hang for minutes on a Nomad that has none.
func (l *life) pulse(ctx context.Context) {
	for ctx.Err() == nil {
		ask, stop := context.WithTimeout(ctx, heartbeat)
		var leader string
		_, err := l.client.Raw().Query("/v1/status/leader", &leader, (&api.QueryOptions{}).WithContext(ask))
		stop()
		if ctx.Err() != nil {
			return
		}
		v := fine
		switch {
		case err != nil:
			v = refusal("its leader", err)
		case leader == "":
			v = verdict{mesh.SourceStale, "Nomad has no leader."}
		}
		now := l.opt.Now()
		l.mu.Lock()
		if v.ok() && !l.beat.ok() {
			close(l.healed)
			l.healed = make(chan struct{})
		}
		l.beat.note(v, now)
		l.rates.count(now, l.tr.asked.Load())
		l.mu.Unlock()
		wait := heartbeat
		if !v.ok() {
			wait = time.Second
		}
		sleep(ctx, nil, wait*4/5+rand.N(wait/5))
	}
}

// recovered is closed when Nomad answers again.
func (l *life) recovered() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.healed
}

// rates counts requests, a second each, for a minute. It is under life.mu.
type rates struct {
	slots [60]int64
	at    int64
	asked int64
}

func (r *rates) count(now time.Time, total int64) {
	t := now.Unix()
	for s := max(r.at+1, t-59); s <= t; s++ {
		r.slots[s%60] = 0
	}
	r.slots[t%60] += total - r.asked
	r.at, r.asked = max(t, r.at), total
}

func (r *rates) perSecond(now time.Time, total int64) float64 {
	r.count(now, total)
	var sum int64
	for _, n := range r.slots {
		sum += n
	}
	return float64(sum) / 60
}

// sleep waits for a time, for ctx, or for early, which it reports.
func sleep(ctx context.Context, early <-chan struct{}, d time.Duration) (woken bool) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	case <-early:
		jitter := time.NewTimer(rand.N(500 * time.Millisecond)) // not everybody at once
		defer jitter.Stop()
		select {
		case <-ctx.Done():
		case <-jitter.C:
		}
		return true
	}
	return false
}

// pause is how long to wait after n failures in a row.
func pause(n int) time.Duration {
	d := min(time.Second<<min(n, 4), 15*time.Second)
	return d*3/4 + rand.N(d/4)
}
