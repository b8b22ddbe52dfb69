package nomad

import (
	"cmp"
	"context"
	"errors"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/nomad/api"

	"github.com/kerege/kerege/mesh"
)

// Options of a Source. An empty field falls back on NOMAD_* in the environment,
// then on Nomad's own default.
type Options struct {
	Name       string // "nomad"; another region's source has another, such as "nomad/eu"
	Address    string // host:port, URL, or unix:///path
	Region     string
	Namespaces []string // "*" is all; none: NOMAD_NAMESPACE, else "default"
	Token      Secret
	TokenFile  string // read again when it changes

	CAFile, CAPath, CertFile, KeyFile, TLSServerName string
	SkipVerify                                       bool

	Reread     time.Duration // everything is read again after it, less up to a fifth; default 10 min
	CheckEvery time.Duration // between two polls of an allocation's checks; default 10 s
	Logger     hclog.Logger
	Now        func() time.Time
}

const (
	inFlight  = 64 // requests that do not wait for a change
	heartbeat = 5 * time.Second
	patience  = 30 * time.Second // for an answer that need not wait
	hold      = 30 * time.Second // a namespace that is silent at the start is waited for
)

// Source is a hub's source "nomad".
type Source struct {
	opt    Options
	log    hclog.Logger
	client *api.Client
	tr     *transport
	fresh  chan struct{}
	margin time.Duration // beyond a wait before its question is given up

	mu     sync.Mutex
	life   *life // of the Watch that runs, or ran last
	missed int   // changes that only a full re-read found
	rates  rates
}

// New makes a source; an error is a setting that cannot be used. Nomad is not
// asked before Watch.
func New(opt Options) (*Source, error) {
	opt.Name = cmp.Or(opt.Name, "nomad")
	opt.Reread = cmp.Or(opt.Reread, 10*time.Minute)
	opt.CheckEvery = cmp.Or(opt.CheckEvery, 10*time.Second)
	if opt.Logger == nil {
		opt.Logger = hclog.NewNullLogger()
	}
	if opt.Now == nil {
		opt.Now = time.Now
	}
	if len(opt.Namespaces) == 0 {
		opt.Namespaces = []string{cmp.Or(os.Getenv("NOMAD_NAMESPACE"), "default")}
	}
	opt.Namespaces = slices.Compact(slices.Sorted(slices.Values(opt.Namespaces)))
	if opt.Namespaces[0] == "" {
		return nil, errors.New("reading nomad's settings: a namespace has no name")
	}
	if slices.Contains(opt.Namespaces, "*") {
		opt.Namespaces = []string{"*"}
	}
	if opt.Token != nil && opt.Token.Reveal() != "" && opt.TokenFile != "" {
		return nil, errors.New("reading nomad's settings: a token and a token file exclude each other")
	}
	client, tr, err := newClient(opt)
	if err != nil {
		return nil, err
	}
	return &Source{opt: opt, log: opt.Logger, client: client, tr: tr, fresh: make(chan struct{}, inFlight), margin: 10 * time.Second}, nil
}

// Name is the source's, and that of its parts.
func (s *Source) Name() string { return s.opt.Name }

// Watch reports until ctx ends. It retries by itself and never fails.
func (s *Source) Watch(ctx context.Context, out chan<- mesh.Part) error {
	l := newLife(s)
	s.mu.Lock()
	s.life = l
	s.mu.Unlock()
	l.all.Go(func() { l.pulse(ctx) })
	l.all.Go(func() { l.publish(ctx, out) })
	l.all.Go(func() { l.checks(ctx) })
	for _, ns := range s.opt.Namespaces {
		l.all.Go(func() { l.stream(ctx, l.spaces[ns]) })
		l.all.Go(func() { l.list(ctx, l.spaces[ns]) })
	}
	l.all.Wait()
	return nil
}

// Report is the worst that can be said of the leader, the lists and the services.
func (s *Source) Report() mesh.SourceReport {
	s.mu.Lock()
	l, missed := s.life, s.missed
	s.mu.Unlock()
	if l == nil {
		return mesh.SourceReport{State: mesh.SourceStale, Err: "it has not spoken yet"}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.beat.state == "" || slices.ContainsFunc(s.opt.Namespaces, func(ns string) bool { return l.spaces[ns].state == "" }) {
		return mesh.SourceReport{State: mesh.SourceStale, Err: "it has not spoken yet"}
	}
	r := mesh.SourceReport{State: mesh.SourceOK, Since: l.beat.since, Healed: missed, RequestsPerSecond: s.rates.perSecond(s.opt.Now(), s.tr.asked.Load())}
	all := []*condition{&l.beat}
	for _, ns := range s.opt.Namespaces {
		sp := l.spaces[ns]
		all = append(all, &sp.condition)
		r.Watches++
		if sp.streaming {
			r.Watches++
		}
	}
	for _, k := range l.keys() {
		all = append(all, &l.services[k].condition)
	}
	for _, list := range l.said {
		if len(list) > 0 {
			r.Services++
		}
	}
	for _, c := range all {
		if c.trouble.After(r.Trouble) {
			r.Trouble = c.trouble
		}
		if c.state == "" || c.ok() {
			continue
		}
		if c.since.Before(r.Since) {
			r.Since = c.since
		}
		if rank(c.state) > rank(r.State) {
			r.State, r.Err = c.state, c.why
		}
	}
	return r
}

// query asks what need not wait for a change.
func (l *life) query(ctx context.Context, path string, out any, q *api.QueryOptions) (*api.QueryMeta, error) {
	return l.queryIn(ctx, patience, path, out, q)
}

func (l *life) queryIn(ctx context.Context, limit time.Duration, path string, out any, q *api.QueryOptions) (*api.QueryMeta, error) {
	select {
	case l.fresh <- struct{}{}:
		defer func() { <-l.fresh }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	ctx, stop := context.WithTimeout(ctx, limit)
	defer stop()
	return l.client.Raw().Query(path, out, q.WithContext(ctx))
}
