package consul

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/hashicorp/go-hclog"
	"golang.org/x/time/rate"

	"github.com/kerege/kerege/mesh"
)

// Options of a Source. An empty field falls back on CONSUL_* in the environment,
// then on Consul's own default.
type Options struct {
	Name       string // "consul"; another datacenter's source has another, such as "consul/dc2"
	Address    string // host:port, URL, or unix:///path
	Scheme     string
	Token      Secret
	TokenFile  string // read again when it changes
	Datacenter string
	Namespace  string
	Partition  string

	CAFile, CAPath, CertFile, KeyFile, TLSServerName string
	SkipVerify                                       bool

	MaxWatches int             // services with a watch of their own; default 1000
	Wanted     func() []string // names to watch first when there are more
	Reread     time.Duration   // everything is read again after it, less up to a fifth; default 10 min
	Logger     hclog.Logger
}

const (
	freshAtOnce = 64 // requests in flight that do not wait for a change
	heartbeat   = 5 * time.Second
	patience    = 30 * time.Second // for an answer that need not wait
)

// Source is a hub's source "consul".
type Source struct {
	opt    Options
	log    hclog.Logger
	client *api.Client
	tr     *transport
	fresh  chan struct{}
	names  *rate.Limiter // of the list of services, which costs Consul all of them
	turn   *rate.Limiter // of the services read in turn

	mu       sync.Mutex
	services map[string]*service
	listed   map[string]bool // names in the last whole list; nil: none yet
	refused  map[string]bool // names that cannot be asked for, once said
	catalog  condition
	beat     condition
	healed   chan struct{} // closed when Consul answers again
	missed   int           // changes that only a full re-read found
	marked   bool          // all has been said once since Watch began
	max      int           // watches that Consul lets us have
	lowered  time.Time
	rates    [60]int64 // requests by second
	rateAt   int64
	asked    int64
	balance  chan struct{}
}

// condition is how one thing that is asked for is doing.
type condition struct {
	verdict
	ok      time.Time // of its last whole answer
	trouble time.Time
}

func (h *condition) note(v verdict, now time.Time) {
	h.verdict = v
	if v.state == mesh.SourceOK {
		h.ok = now
	} else {
		h.trouble = now
	}
}

// New makes a source; an error is a setting that cannot be used. Consul is not
// asked before Watch.
func New(opt Options) (*Source, error) {
	if opt.Name == "" {
		opt.Name = "consul"
	}
	if opt.MaxWatches == 0 {
		opt.MaxWatches = 1000
	}
	if opt.Reread == 0 {
		opt.Reread = 10 * time.Minute
	}
	if opt.Logger == nil {
		opt.Logger = hclog.NewNullLogger()
	}
	client, tr, err := newClient(opt)
	if err != nil {
		return nil, err
	}
	return &Source{
		opt: opt, log: opt.Logger, client: client, tr: tr, fresh: make(chan struct{}, freshAtOnce),
		names: rate.NewLimiter(10, 3), turn: rate.NewLimiter(50, 50), services: map[string]*service{},
		healed: make(chan struct{}), max: opt.MaxWatches, balance: make(chan struct{}, 1),
	}, nil
}

// Name is the source's, and that of its parts.
func (s *Source) Name() string { return s.opt.Name }

// Watch reports until ctx ends. It retries by itself and never fails.
func (s *Source) Watch(ctx context.Context, out chan<- mesh.Part) error {
	s.mu.Lock()
	s.services, s.listed, s.marked = map[string]*service{}, nil, false
	s.mu.Unlock()
	s.budget(ctx)
	var all sync.WaitGroup
	all.Go(func() { s.pulse(ctx) })
	all.Go(func() { s.list(ctx, out) })
	all.Go(func() { s.sweep(ctx, out) })
	all.Wait()
	return nil
}

// Report is the worst that can be said of the list, the services and the leader.
func (s *Source) Report() mesh.SourceReport {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := mesh.SourceReport{State: mesh.SourceOK, Since: s.beat.ok, Healed: s.missed, RequestsPerSecond: s.perSecond()}
	if s.catalog.ok.IsZero() && s.catalog.state == "" || s.beat.state == "" {
		return mesh.SourceReport{State: mesh.SourceStale, Err: "it has not spoken yet"}
	}
	all := []*condition{&s.beat, &s.catalog}
	for _, name := range sortedNames(s.services) {
		svc := s.services[name]
		all = append(all, &svc.health)
		if len(svc.said) > 0 {
			r.Services++
		}
		if svc.stop != nil {
			r.Watches++
		}
	}
	for _, h := range all {
		if h.trouble.After(r.Trouble) {
			r.Trouble = h.trouble
		}
		if h.state == "" || h.state == mesh.SourceOK {
			continue
		}
		if h.ok.Before(r.Since) {
			r.Since = h.ok
		}
		if rank(h.state) > rank(r.State) {
			r.State, r.Err = h.state, h.why
		}
	}
	return r
}

// pulse asks every few seconds whether there is a leader: the long polls may
// hang for minutes on a Consul that has none.
func (s *Source) pulse(ctx context.Context) {
	for ctx.Err() == nil {
		ask, stop := context.WithTimeout(ctx, heartbeat)
		leader, err := s.client.Status().LeaderWithQueryOptions((&api.QueryOptions{Datacenter: s.opt.Datacenter}).WithContext(ask))
		stop()
		if ctx.Err() != nil {
			return
		}
		v := fine
		switch {
		case err != nil:
			v = refusal("its leader", err)
		case leader == "":
			v = verdict{state: mesh.SourceStale, why: "Consul has no leader."}
		}
		s.mu.Lock()
		if v.state == mesh.SourceOK && s.beat.state != mesh.SourceOK {
			close(s.healed)
			s.healed = make(chan struct{})
		}
		s.beat.note(v, time.Now())
		s.count()
		s.mu.Unlock()
		wait := heartbeat
		if v.state != mesh.SourceOK {
			wait = time.Second
		}
		sleep(ctx, nil, wait*4/5+rand.N(wait/5))
	}
}

// count notes the requests of the last seconds; perSecond averages a minute.
func (s *Source) count() {
	now, total := time.Now().Unix(), s.tr.asked.Load()
	for t := max(s.rateAt+1, now-59); t < now; t++ {
		s.rates[t%60] = 0
	}
	if s.rateAt != now {
		s.rates[now%60] = 0
	}
	s.rates[now%60] += total - s.asked
	s.rateAt, s.asked = now, total
}

func (s *Source) perSecond() float64 {
	s.count()
	var sum int64
	for _, n := range s.rates {
		sum += n
	}
	return float64(sum) / 60
}

// recovered is closed when Consul answers again.
func (s *Source) recovered() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.healed
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

func sortedNames(m map[string]*service) []string {
	names := make([]string, 0, len(m))
	for n := range m {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}
