package consul

import (
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
	"golang.org/x/time/rate"

	"github.com/kerege/kerege/mesh"
)

// list follows the names of the services and gives each a watch or a place in
// the sweep, until ctx ends.
func (s *Source) list(ctx context.Context, out chan<- mesh.Part) {
	var watching sync.WaitGroup
	defer watching.Wait()
	var index uint64
	faults, idle := 0, 0
	ask := make(chan listing, 1)
	for ctx.Err() == nil {
		if s.names.Wait(ctx) != nil {
			return
		}
		wait := s.opt.Reread*4/5 + rand.N(s.opt.Reread/5)
		began := time.Now()
		var asking sync.WaitGroup
		asking.Go(func() { ask <- s.askNames(ctx, index, wait) })
		var got listing
		for waiting := true; waiting; {
			select {
			case got = <-ask:
				waiting = false
			case <-s.balance:
				s.place(ctx, &watching, out)
			}
		}
		asking.Wait()
		if ctx.Err() != nil {
			return
		}
		s.take(got)
		s.place(ctx, &watching, out)
		s.mark(ctx, out)
		if got.state != mesh.SourceOK {
			faults, index = faults+1, 0 // the next answer comes at once and says whether all is well
			if sleep(ctx, s.recovered(), pause(faults-1)) {
				faults = 1
			}
			continue
		}
		faults = 0
		before := index
		index = nextIndex(before, got.index)
		idle++
		if got.index > before && got.index > 1 || time.Since(began) >= wait/2 {
			idle = 0
		}
		if idle > 2 {
			sleep(ctx, nil, pause(idle-3))
		}
		if time.Since(began) >= wait {
			index = 0 // read all again: a lost notification heals here
		}
	}
}

// listing is one answer to the question for all names.
type listing struct {
	verdict
	names map[string]bool
	index uint64
}

func (s *Source) askNames(ctx context.Context, index uint64, wait time.Duration) listing {
	q := &api.QueryOptions{Datacenter: s.opt.Datacenter, WaitIndex: index}
	limit := patience
	if index > 0 {
		q.WaitTime, limit = wait, wait+wait/10+10*time.Second
	}
	ctx, stop := context.WithTimeout(ctx, limit)
	defer stop()
	found, meta, err := s.client.Catalog().Services(q.WithContext(ctx))
	got := listing{verdict: classify("the list of services", meta, err), names: map[string]bool{}}
	for name := range found {
		switch {
		case name == "consul": // Consul's servers are no service of ours
		case !askable(name):
			s.unaskable(name)
		default:
			got.names[name] = true
		}
	}
	if meta != nil {
		got.index = meta.LastIndex
	}
	return got
}

// askable says whether a name stays itself in a URL's path. Consul takes any name
// from who may register, and one like "../x" would ask it for something else.
func askable(name string) bool {
	return !slices.ContainsFunc(strings.Split(name, "/"), func(step string) bool { return step == "" || step == "." || step == ".." })
}

// unaskable says once that a name is left out.
func (s *Source) unaskable(name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refused == nil {
		s.refused = map[string]bool{}
	}
	if !s.refused[name] && len(s.refused) < 100 {
		s.refused[name] = true
		s.log.Warn("a service of consul is left out: its name cannot be asked for", "service", mesh.Quote(name))
	}
}

// take brings a list in. Names are added from a filtered list too; none goes by
// a list: a service goes when its own consistent read is empty.
func (s *Source) take(got listing) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if got.state != mesh.SourceOK && s.catalog.state != got.state {
		s.log.Warn("an answer of consul changes nothing", "state", string(got.state), "why", got.why)
	}
	s.catalog.note(got.verdict, time.Now())
	if got.state != mesh.SourceOK && got.state != mesh.SourceFiltered {
		return
	}
	for name := range got.names {
		if s.services[name] == nil {
			s.services[name] = newService(name)
		}
	}
	if got.state == mesh.SourceOK {
		s.listed = got.names
		s.names.SetLimit(listRate(len(got.names)))
	}
}

// listRate is how often a second the list may be asked for: ten times while it is
// short, once when it is very long.
func listRate(names int) rate.Limit { return rate.Limit(min(10, max(1, 5000/max(1, names)))) }

// place gives watches to the services that are wanted, then to the others by
// name, as far as there are; it stops those of services that are gone.
func (s *Source) place(ctx context.Context, watching *sync.WaitGroup, out chan<- mesh.Part) {
	var wanted []string
	if s.opt.Wanted != nil {
		wanted = s.opt.Wanted()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, svc := range s.services {
		if s.listed != nil && !s.listed[name] && svc.spoke && len(svc.said) == 0 {
			svc.halt()
			delete(s.services, name)
		}
	}
	names := sortedNames(s.services)
	if len(names) > s.max {
		first := map[string]bool{}
		for _, n := range wanted {
			first[n] = true
		}
		slices.SortStableFunc(names, func(a, b string) int {
			if first[a] != first[b] {
				if first[a] {
					return -1
				}
				return 1
			}
			return 0
		})
		for _, n := range names[s.max:] {
			s.services[n].halt()
		}
		names = names[:s.max]
	}
	for _, n := range names {
		svc := s.services[n]
		if svc.stop != nil {
			continue
		}
		inner, stop := context.WithCancel(ctx)
		last, ended := svc.ended, make(chan struct{})
		svc.stop, svc.ended = stop, ended
		watching.Go(func() {
			defer close(ended)
			if last != nil {
				<-last // its watch before, or the sweep, may still be at it
			}
			s.watch(inner, svc, out)
		})
	}
}

// halt ends a service's watch without waiting for it. Source.mu is held.
func (svc *service) halt() {
	if svc.stop != nil {
		svc.stop()
		svc.stop = nil
	}
}

func (s *Source) live() (n int) {
	for _, svc := range s.services {
		if svc.stop != nil {
			n++
		}
	}
	return n
}

// sweep reads, in turn, the services that have no watch; those not read yet all
// at once, for nobody is answered before they are.
func (s *Source) sweep(ctx context.Context, out chan<- mesh.Part) {
	for ctx.Err() == nil {
		began := time.Now()
		s.mu.Lock()
		var known, unknown []string
		for _, n := range sortedNames(s.services) {
			switch svc := s.services[n]; {
			case svc.stop != nil:
			case svc.spoke || svc.tried:
				known = append(known, n)
			default:
				unknown = append(unknown, n)
			}
		}
		s.mu.Unlock()
		s.sweepAll(ctx, unknown, out)
		for _, n := range known {
			if s.turn.Wait(ctx) != nil {
				return
			}
			s.sweepOne(ctx, n, out)
		}
		if time.Since(began) < time.Second {
			sleep(ctx, nil, time.Second)
		}
	}
}

func (s *Source) sweepAll(ctx context.Context, names []string, out chan<- mesh.Part) {
	var reading sync.WaitGroup
	defer reading.Wait()
	places := make(chan struct{}, freshAtOnce/2)
	for _, n := range names {
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
			return
		}
		reading.Go(func() {
			s.sweepOne(ctx, n, out)
			<-places
		})
	}
}

// sweepOne reads a service unless it has got a watch meanwhile, which then waits
// for this read to end.
func (s *Source) sweepOne(ctx context.Context, name string, out chan<- mesh.Part) {
	s.mu.Lock()
	svc := s.services[name]
	if svc == nil || svc.stop != nil {
		s.mu.Unlock()
		return
	}
	last, ended := svc.ended, make(chan struct{})
	svc.ended = ended
	s.mu.Unlock()
	defer close(ended)
	if last != nil {
		<-last
	}
	svc.index = 0
	s.mu.Lock()
	svc.tried = true
	s.mu.Unlock()
	s.step(ctx, svc, out)
}
