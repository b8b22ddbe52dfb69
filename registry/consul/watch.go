package consul

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"time"

	"github.com/hashicorp/consul/api"
	"golang.org/x/time/rate"

	"github.com/kerege/kerege/mesh"
)

// service is what is known of one name. What is not under
// Source.mu belongs to whoever reads it: its watch, or the sweep.
type service struct {
	name string

	health condition       // under Source.mu
	said   []mesh.Instance // under Source.mu: what the hub has
	spoke  bool            // under Source.mu: the hub has heard of it
	tried  bool            // under Source.mu: the sweep has read it
	stop   context.CancelFunc
	ended  chan struct{}

	index  uint64 // the next long poll waits beyond it; 0: it does not wait
	reread time.Time
	faults int
	idle   int           // answers in a row that came at once and said nothing new
	calm   *rate.Limiter // of answers that say nothing new although the index moved
}

func newService(name string) *service {
	return &service{name: name, calm: rate.NewLimiter(2, 4)}
}

// watch keeps one service's long poll open until ctx ends.
func (s *Source) watch(ctx context.Context, svc *service, out chan<- mesh.Part) {
	for ctx.Err() == nil {
		wait := s.step(ctx, svc, out)
		if wait > 0 && sleep(ctx, s.recovered(), wait) {
			svc.faults = min(svc.faults, 1) // a Consul just back may fail once more: not for long
		}
	}
}

// step asks once, reports what is new, and says how long to wait.
func (s *Source) step(ctx context.Context, svc *service, out chan<- mesh.Part) time.Duration {
	began := time.Now()
	full := !began.Before(svc.reread)
	if full {
		svc.reread = began.Add(s.opt.Reread*4/5 + rand.N(s.opt.Reread/5))
	}
	q := &api.QueryOptions{}
	switch {
	case full: // consistent, because the agent's own view may be what is out of date
		q.RequireConsistent = svc.said != nil
	case svc.faults == 0 && svc.index > 0:
		q.WaitIndex, q.WaitTime = svc.index, max(time.Until(svc.reread), time.Second)
	}
	got, index, v := s.ask(ctx, svc.name, q)
	if v.state == mesh.SourceOK && !q.RequireConsistent && s.loses(svc, got) {
		got, _, v = s.ask(ctx, svc.name, &api.QueryOptions{RequireConsistent: true})
	}
	if ctx.Err() != nil {
		return 0
	}
	if v.state != mesh.SourceOK {
		if full {
			svc.reread = began // still owed
		}
		return s.fault(svc, v)
	}
	svc.faults = 0
	changed := s.say(ctx, svc, got, out)
	if full {
		if changed && svc.index > 0 {
			s.mu.Lock()
			s.missed++
			s.mu.Unlock()
			s.log.Warn("a full read found a change that the watch had not reported", "service", svc.name)
		}
		if svc.index > 0 {
			return 0 // the watch's own index goes on
		}
	}
	before := q.WaitIndex
	svc.index = nextIndex(before, index)
	return svc.rest(changed, before != 0 && index <= before, time.Since(began) >= q.WaitTime && q.WaitTime > 0)
}

// rest is the pause that keeps a watch from becoming a hot loop. stuck is an
// index that did not move; slow an answer that came because the wait was over.
func (svc *service) rest(changed, stuck, slow bool) time.Duration {
	switch {
	case slow, changed:
		svc.idle = 0
		return 0
	case stuck || svc.index <= 1:
		svc.idle++
		if svc.idle <= 2 {
			return 0
		}
		return pause(svc.idle - 3)
	}
	svc.idle = 0
	return svc.calm.Reserve().Delay()
}

// fault notes an answer that cannot be used; the next question does not wait for
// a change. A watch that Consul has no connection for goes among the services
// read in turn.
func (s *Source) fault(svc *service, v verdict) time.Duration {
	s.mu.Lock()
	svc.health.note(v, time.Now())
	if live := s.live(); v.limit && time.Since(s.lowered) > time.Second && live > 8 {
		s.max, s.lowered = live*4/5, time.Now()
		s.log.Warn("consul allows no more connections; some services are read in turn", "watches", s.max, "hint", "raise limits.http_max_conns_per_client")
		select {
		case s.balance <- struct{}{}:
		default:
		}
	}
	s.mu.Unlock()
	if svc.faults == 0 {
		s.log.Warn("an answer of consul changes nothing", "service", svc.name, "state", string(v.state), "why", v.why)
	}
	svc.faults++
	return pause(svc.faults - 1)
}

// ask is one question about a service, in all its states of health.
func (s *Source) ask(ctx context.Context, name string, q *api.QueryOptions) ([]mesh.Instance, uint64, verdict) {
	limit := patience
	if q.WaitIndex > 0 {
		limit = q.WaitTime + q.WaitTime/10 + 10*time.Second
	} else {
		select {
		case s.fresh <- struct{}{}:
			defer func() { <-s.fresh }()
		case <-ctx.Done():
			return nil, 0, verdict{state: mesh.SourceError, why: "stopped"}
		}
	}
	ctx, stop := context.WithTimeout(ctx, limit)
	defer stop()
	q.Datacenter = s.opt.Datacenter
	entries, meta, err := s.client.Health().Service(name, "", false, q.WithContext(ctx))
	v := classify("the service "+mesh.Quote(name), meta, err)
	if v.state != mesh.SourceOK {
		return nil, 0, v
	}
	return convert(name, s.opt.Datacenter, entries), meta.LastIndex, v
}

// place is what makes an instance the same one in two answers.
type place struct {
	node, id string
	addr     netip.AddrPort
}

// loses says whether an answer lacks an instance that the hub has, or is the
// first to say that there is none.
func (s *Source) loses(svc *service, got []mesh.Instance) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(got) == 0 {
		return !svc.spoke || len(svc.said) > 0
	}
	have := make(map[place]bool, len(got))
	for _, in := range got {
		have[place{in.Node, in.ID, in.Addr}] = true
	}
	for _, in := range svc.said {
		if !have[place{in.Node, in.ID, in.Addr}] {
			return true
		}
	}
	return false
}

// say reports what is new and says whether anything was.
func (s *Source) say(ctx context.Context, svc *service, got []mesh.Instance, out chan<- mesh.Part) bool {
	s.mu.Lock()
	svc.health.note(fine, time.Now())
	same := svc.spoke && (len(got) == 0 && len(svc.said) == 0 || reflect.DeepEqual(got, svc.said))
	s.mu.Unlock()
	if same {
		return false
	}
	select {
	case out <- mesh.Part{Source: s.opt.Name, Scope: svc.name, Instances: got}:
	case <-ctx.Done():
		return false
	}
	s.mu.Lock()
	svc.said, svc.spoke = got, true
	s.mu.Unlock()
	s.mark(ctx, out)
	return true
}

// mark says, once, that everything known has been said.
func (s *Source) mark(ctx context.Context, out chan<- mesh.Part) {
	s.mu.Lock()
	done := s.listed != nil && !s.marked
	for name := range s.listed {
		done = done && s.services[name] != nil && s.services[name].spoke
	}
	if done {
		s.marked = true
	}
	s.mu.Unlock()
	if done {
		select {
		case out <- mesh.Part{Source: s.opt.Name}:
		case <-ctx.Done():
		}
	}
}
