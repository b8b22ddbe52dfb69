package nomad

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"net/url"
	"reflect"
	"slices"
	"time"

	"github.com/hashicorp/nomad/api"
	"golang.org/x/time/rate"

	"github.com/kerege/kerege/mesh"
)

// again is how long after a loss it is asked a second time.
const again = 100 * time.Millisecond

// service is what is known of one name in one namespace. What is not said to be
// under life.mu belongs to its follow.
type service struct {
	key   key
	space *space
	poked chan struct{}

	condition                            // under life.mu
	regs      []*api.ServiceRegistration // under life.mu
	read      bool                       // under life.mu: regs are known

	index  uint64
	reread time.Time
	faults int
	calm   *rate.Limiter
}

func newService(k key, sp *space) *service {
	return &service{key: k, space: sp, poked: make(chan struct{}, 1), calm: rate.NewLimiter(4, 4)}
}

// poke has the service read again soon.
func (svc *service) poke() {
	select {
	case svc.poked <- struct{}{}:
	default:
	}
}

// follow reads a service whenever something says that it changed, until ctx ends
// or it is gone.
func (l *life) follow(ctx context.Context, svc *service) {
	for ctx.Err() == nil {
		wait, done := l.step(ctx, svc)
		if done {
			return
		}
		if wait > 0 {
			if sleep(ctx, l.recovered(), wait) {
				svc.faults = min(svc.faults, 1) // a Nomad just back may fail once more: not for long
			}
			continue
		}
		due := time.NewTimer(time.Until(svc.reread))
		select {
		case <-svc.poked:
		case <-due.C:
		case <-ctx.Done():
		}
		due.Stop()
		if svc.calm.Wait(ctx) != nil {
			return
		}
	}
}

// step reads the service once. It says how long to wait after a failure, and
// whether the service is gone.
func (l *life) step(ctx context.Context, svc *service) (wait time.Duration, done bool) {
	poked := svc.index == 0
	select {
	case <-svc.poked:
		poked = true
	default:
	}
	began := time.Now()
	full := !began.Before(svc.reread)
	got, index, v := l.ask(ctx, svc.key)
	if v.ok() && index < svc.index { // a Nomad restored from a backup counts from there again
		full = true
	}
	if v.ok() && (index < svc.index || l.loses(svc, got)) {
		sleep(ctx, nil, again+rand.N(again))
		got, index, v = l.ask(ctx, svc.key)
	}
	if v.ok() {
		v = l.describe(ctx, svc.key, got, full)
	}
	if ctx.Err() != nil {
		return 0, true
	}
	if !v.ok() {
		return l.fault(svc, v), false
	}
	svc.faults, svc.index = 0, max(index, 1)
	if full {
		svc.reread = began.Add(l.opt.Reread*4/5 + rand.N(l.opt.Reread/5))
	}
	return 0, l.keep(svc, got, full && !poked)
}

// keep notes an answer and says whether the service is gone.
func (l *life) keep(svc *service, got []*api.ServiceRegistration, silent bool) (gone bool) {
	now := l.opt.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	svc.note(fine, now)
	if silent && !reflect.DeepEqual(svc.regs, got) {
		l.Source.mu.Lock()
		l.missed++
		l.Source.mu.Unlock()
		l.log.Warn("a full read found a change that nothing had told of", "service", svc.key.name, "namespace", svc.key.namespace)
	}
	l.forget(svc.key, svc.regs, got)
	svc.regs, svc.read = got, true
	if len(got) == 0 && !svc.space.names[svc.key] && len(svc.poked) == 0 {
		delete(l.services, svc.key)
		l.names[svc.key.name] = slices.DeleteFunc(l.names[svc.key.name], func(k key) bool { return k == svc.key })
		if len(l.names[svc.key.name]) == 0 {
			delete(l.names, svc.key.name)
		}
		gone = true
	}
	l.redo(svc.key.name)
	return gone
}

// fault notes an answer that cannot be used.
func (l *life) fault(svc *service, v verdict) time.Duration {
	now := l.opt.Now()
	l.mu.Lock()
	svc.note(v, now)
	l.mu.Unlock()
	if svc.faults == 0 {
		l.log.Warn("an answer of nomad changes nothing", "service", svc.key.name, "namespace", svc.key.namespace, "state", string(v.state), "why", v.why)
	}
	svc.faults++
	return pause(svc.faults - 1)
}

func (l *life) ask(ctx context.Context, k key) ([]*api.ServiceRegistration, uint64, verdict) {
	var got []*api.ServiceRegistration
	meta, err := l.query(ctx, "/v1/service/"+url.PathEscape(k.name), &got, &api.QueryOptions{Namespace: k.namespace})
	if v := classify("the service "+mesh.Quote(k.name)+" of namespace "+mesh.Quote(k.namespace), meta, err); !v.ok() {
		return nil, 0, v
	}
	whole := got[:0]
	for _, r := range got {
		if r != nil && r.ServiceName == k.name {
			whole = append(whole, r)
		}
	}
	return whole, meta.LastIndex, fine
}

// loses says whether an answer lacks an instance that is known, or is the first
// and empty.
func (l *life) loses(svc *service, got []*api.ServiceRegistration) bool {
	type place struct {
		id   string
		addr netip.AddrPort
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !svc.read {
		return len(got) == 0
	}
	have := map[place]bool{}
	for _, r := range got {
		have[place{r.ID, addr(r.Address, r.Port)}] = true
	}
	for _, r := range svc.regs {
		if !have[place{r.ID, addr(r.Address, r.Port)}] {
			return true
		}
	}
	return false
}
