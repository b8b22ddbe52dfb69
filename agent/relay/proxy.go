package relay

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"

	"github.com/kerege/kerege/agent/seal"
	"github.com/kerege/kerege/xds/delta"
)

// Config of a Proxy.
type Config struct {
	ID       string         // Envoy's node id, "<service>/<node>[/<workload>]"
	Cluster  string         // node.cluster, the service
	Metadata map[string]any // node.metadata, as in structpb
	File     string         // last accepted resources; "": nothing is kept
	Key      seal.Key       // seals File
	// Servers is the connection to the control plane; it moves to another server
	// by itself. Nil: none, everything is from disk.
	Servers grpc.ClientConnInterface
	// Notify is called, without blocking anybody, when Status may have changed.
	Notify func()
	// Shown is told of every resource before Envoy may see it, by type URL and
	// name, and with a nil body that it is gone. It must not wait. Nil: nobody asks.
	Shown  func(typ, name string, body []byte)
	Logger hclog.Logger
}

// Proxy is one Envoy's relay.
type Proxy struct {
	cfg   Config
	log   hclog.Logger
	store store
	poked chan struct{} // for tend
	dirty chan struct{} // for keep

	mu       sync.Mutex
	view     *view
	begun    bool // the set is fit to be shown
	source   Source
	heard    time.Time // the last message of a server
	fresh    time.Time // when the resources were last known to be the servers'
	got      map[string]bool
	up       *upstream // nil: no stream
	upSince  time.Time // since up is as it is
	upError  string
	pending  map[string][]*pending // by type, oldest first
	streams  map[*stream]struct{}
	envoy    string // version of the last Envoy
	wake     time.Time
	saved    *delta.Set // on disk
	saveErr  string
	saveFile bool // a file may be written
	readers  sync.WaitGroup
}

// Source says where a proxy's resources come from.
type Source string

const (
	None Source = "none" // no server and no file has spoken yet
	Disk Source = "disk" // last accepted, from before
	Live Source = "live" // a server's
)

// New makes a Proxy and reads its file. A file that must not be believed is
// moved aside and logged, never an error: the proxy then waits for a server.
func New(c Config) *Proxy {
	if c.Logger == nil {
		c.Logger = hclog.NewNullLogger()
	}
	if c.Notify == nil {
		c.Notify = func() {}
	}
	p := &Proxy{cfg: c, log: c.Logger, poked: make(chan struct{}, 1), dirty: make(chan struct{}, 1), view: newView(), source: None,
		got: map[string]bool{}, pending: map[string][]*pending{}, streams: map[*stream]struct{}{}, upSince: time.Now()}
	if c.Shown != nil {
		p.view.shown = c.Shown
	}
	if c.File == "" {
		return p
	}
	p.store, p.saveFile = newStore(c.File, c.ID, c.Key), true
	rs, a, saved, err := p.store.load()
	if err != nil {
		p.refuseFile(err)
		return p
	}
	if len(rs) > 0 {
		p.view.load(rs)
		p.begun, p.source, p.fresh, p.envoy, p.saved = true, Disk, saved, a.Envoy, p.view.set
		p.log.Info("serving last accepted resources", "proxy", c.ID, "resources", len(rs), "age", time.Since(saved).Round(time.Second))
	}
	return p
}

// Wait waits for what serves Envoys, after their gRPC server was stopped.
func (p *Proxy) Wait() { p.readers.Wait() }

func (p *Proxy) refuseFile(err error) {
	if !errors.Is(err, seal.ErrUnusable) {
		p.saveErr = err.Error()
		p.log.Error("last accepted resources cannot be read; this proxy waits for a server", "proxy", p.cfg.ID, "error", err)
		return
	}
	to, e := seal.Aside(p.cfg.File, time.Now())
	if e != nil {
		to = e.Error()
	}
	p.saveErr = err.Error()
	p.log.Error("last accepted resources are refused; this proxy waits for a server", "proxy", p.cfg.ID, "because", err, "kept as", to)
}

// Run keeps the stream to the servers and the file until ctx is done. Envoys are
// served by the methods that Register adds, also before Run and after it.
func (p *Proxy) Run(ctx context.Context) {
	var wg sync.WaitGroup
	wg.Go(func() { p.tend(ctx) })
	wg.Go(func() { p.keep(ctx) })
	if p.cfg.Servers != nil {
		wg.Go(func() { p.follow(ctx) })
	}
	wg.Wait()
}

// advance moves everything on after a change; mu is held.
func (p *Proxy) advance(now time.Time) {
	before := p.view.set
	wake := p.view.settle(now)
	if !p.begun {
		wake = sooner(wake, p.begin(now))
	}
	if p.begun && p.view.set != before {
		for st := range p.streams {
			st.session.Want(p.view.set)
			st.poke()
		}
		poke(p.dirty)
	}
	wake = sooner(wake, p.answer(now))
	if p.wake = wake; !wake.IsZero() {
		poke(p.poked)
	}
	p.cfg.Notify()
}

// quiet is how long the first answer of a server must rest before it is taken
// as whole: an Envoy that is shown a part of its listeners says it is ready.
const quiet = 100 * time.Millisecond

// restless is how long a server that never rests is waited for.
const restless = 2 * time.Second

// begin shows the first set of a server once it is whole; mu is held.
func (p *Proxy) begin(now time.Time) (wake time.Time) {
	for _, typ := range types {
		if !p.got[typ] {
			return time.Time{}
		}
	}
	if !p.live() || len(p.view.waiting) > 0 {
		return time.Time{}
	}
	if at := p.heard.Add(quiet); now.Before(at) && now.Before(p.up.whole.Add(restless)) {
		return at
	}
	p.begun = true
	for st := range p.streams {
		st.session.Want(p.view.set)
		st.poke()
	}
	poke(p.dirty)
	p.log.Info("first resources of a server", "proxy", p.cfg.ID, "resources", len(p.view.groups))
	return time.Time{}
}

// tend looks again when a wait is over.
func (p *Proxy) tend(ctx context.Context) {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		p.mu.Lock()
		wake := p.wake
		p.mu.Unlock()
		var due <-chan time.Time
		if !wake.IsZero() {
			timer.Reset(max(time.Until(wake), time.Millisecond))
			due = timer.C
		}
		select {
		case <-ctx.Done():
			return
		case <-p.poked:
		case <-due:
			p.mu.Lock()
			p.advance(time.Now())
			p.mu.Unlock()
		}
	}
}

// keep writes the file when the set changed, never more often than saveEvery,
// and once more at the end.
func (p *Proxy) keep(ctx context.Context) {
	touch := time.NewTicker(touchEvery)
	defer touch.Stop()
	for {
		select {
		case <-ctx.Done():
			p.save()
			return
		case <-touch.C:
			p.touch()
			continue
		case <-p.dirty:
		}
		p.save()
		select {
		case <-ctx.Done():
		case <-time.After(saveEvery):
		}
	}
}

func (p *Proxy) save() {
	p.mu.Lock()
	set, saved, a, ok := p.view.set, p.saved, about{Envoy: p.envoy}, p.begun && p.saveFile
	p.mu.Unlock()
	if !ok || set == saved {
		return
	}
	err := p.store.save(set, a)
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		p.saved, p.saveErr = set, ""
		return
	}
	if p.saveErr == "" {
		p.log.Error("resources cannot be kept on disk; serving from memory", "proxy", p.cfg.ID, "error", err)
	}
	p.saveErr = err.Error()
	p.cfg.Notify()
}

func (p *Proxy) touch() {
	p.mu.Lock()
	live, failed, now := p.live(), p.saveErr != "", time.Now()
	p.mu.Unlock()
	if failed {
		poke(p.dirty)
		return
	}
	if live && p.saveFile {
		if err := p.store.touch(now); err != nil {
			p.mu.Lock()
			p.saved = nil
			p.mu.Unlock()
			poke(p.dirty)
		}
	}
}

// Forget deletes the file: the service has left this node. Call it after Run.
func (p *Proxy) Forget() error {
	p.mu.Lock()
	p.saveFile = false
	p.mu.Unlock()
	if p.cfg.File == "" {
		return nil
	}
	if err := remove(p.cfg.File); err != nil {
		return fmt.Errorf("forgetting resources of %s: %w", p.cfg.ID, err)
	}
	return nil
}

func sooner(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
