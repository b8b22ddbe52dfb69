package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"

	"github.com/kerege/kerege/agent/capture"
	"github.com/kerege/kerege/agent/cut"
	"github.com/kerege/kerege/agent/identity"
	"github.com/kerege/kerege/agent/sds"
	"github.com/kerege/kerege/agent/seal"
	keregev1 "github.com/kerege/kerege/api/kerege/v1"
	"github.com/kerege/kerege/config"
	"github.com/kerege/kerege/telemetry"
)

// Options of an Agent that are not settings.
type Options struct {
	Version string
	Logger  hclog.Logger
	// Explicit, if not nil, is the mode without capture and without root: each
	// service's ports as written here. A service that is not in it has none.
	Explicit map[string]Explicit
	// Guard is the command that stands in for this process's capture when it
	// dies, and Dial the one that probes a slice; nil: none.
	Guard, Dial []string
	// Status is told one line for systemd when something changes; Ready is
	// called once, when the API answers and a capture that is on record is back:
	// what starts after that starts captured.
	Ready  func()
	Status func(string)
}

// Agent is one node.
type Agent struct {
	cfg    *config.Agent
	opt    Options
	log    hclog.Logger
	lock   *os.File // of data_dir, until Run ends
	key    seal.Key
	memory *memory
	id     *identity.Manager
	find   finder
	cap    capturer // nil: nothing is captured
	every  time.Duration
	ending func() bool // whether the whole agent goes down, not a step alone; set by Run

	heir *standIn // held open to the last: its end is how it knows of ours

	poked   chan struct{} // something to bring in step
	changed chan struct{} // something to report
	again   chan func()   // done between two climbs of the ladder
	pulse   pulse
	metrics *telemetry.Metrics

	mu        sync.Mutex
	ladder    *ladder
	servers   *servers
	resolver  resolver                                             // nil: no names are answered
	secrets   func(grpc.ServiceRegistrar, *workload) (wait func()) // nil: the step does not stand
	proxies   map[string]*running
	cutBefore cut.Counts // of proxies that are no more
	workloads []*workload
	programs  map[string]found
	openErr   map[string]string
	states    map[string]standing
	verified  time.Time // the last try
	nodeErr   string
	nodeUp    bool
	reported  []string        // members as last reported on this stream; nil: nothing was
	named     []name          // as last given to the resolver
	sockets   []pair          // of the resolver
	guard     *standIn        // nil: nobody stands in
	spaces    map[string]bool // network namespaces that the resolver is open in
	removing  bool            // the capture is being taken away: nobody comes in meanwhile
	leaving   bool            // the node gives its identity up
	farewell  bool            // and has said so on this stream

	spaceSockets map[string][]io.Closer // of the resolver, in network namespaces
	claims       claims                 // what sidecars of allocations said
}

// New opens what the node has on disk and starts nothing. State that cannot be
// believed is moved aside and said in the log.
func New(cfg *config.Agent, opt Options) (*Agent, error) {
	if opt.Logger == nil {
		opt.Logger = hclog.NewNullLogger()
	}
	if opt.Ready == nil {
		opt.Ready = func() {}
	}
	if opt.Status == nil {
		opt.Status = func(string) {}
	}
	a := &Agent{cfg: cfg, opt: opt, log: opt.Logger, find: capture.Find, every: 2 * time.Second,
		poked: make(chan struct{}, 1), changed: make(chan struct{}, 1), again: make(chan func()),
		proxies: map[string]*running{}, programs: map[string]found{}, openErr: map[string]string{}, states: map[string]standing{}}
	a.metrics = a.newMetrics()
	dir := func(name string) string { return filepath.Join(cfg.DataDir, name) }
	if err := makeDirs(cfg.DataDir, dir("proxies"), dir("identity"), dir("capture")); err != nil {
		return nil, err
	}
	keyFile := cfg.CacheKeyFile
	if keyFile == "" {
		keyFile = dir("seal.key")
	}
	var err error
	if a.lock, err = lockDir(cfg.DataDir); err != nil {
		return nil, err
	}
	if err = a.load(dir, keyFile); err != nil {
		return nil, errors.Join(err, a.lock.Close())
	}
	return a, nil
}

// load reads what is in data_dir.
func (a *Agent) load(dir func(string) string, keyFile string) (err error) {
	if a.key, err = seal.LoadKey(keyFile, a.cfg.CacheKeyFile == ""); err != nil {
		return err
	}
	a.memory = openMemory(dir("node.json"), a.log)
	a.id, err = identity.New(identity.Options{Dir: dir("identity"), Key: a.key, Log: a.log.Named("identity"), Evidence: a.claims.evidence})
	if err != nil {
		return fmt.Errorf("opening the node's identities: %w", err)
	}
	if a.opt.Explicit == nil {
		a.cap = capture.New(capture.Options{StateDir: dir("capture"), Log: a.log.Named("capture"), Dial: a.opt.Dial})
	}
	return nil
}

// node is this host's name: the one it joined with, else the settings'.
func (a *Agent) node() string {
	if m, ok := a.id.Mesh(); ok {
		return m.Node
	}
	return a.cfg.Node
}

func (a *Agent) conn() grpc.ClientConnInterface {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.servers
}

func (a *Agent) useServers(list []string) {
	a.mu.Lock()
	s := a.servers
	a.mu.Unlock()
	if s != nil {
		s.use(a.known(list))
	}
}

// known are the servers to try: those said, and those of the settings.
func (a *Agent) known(said []string) []string {
	out := append([]string{}, said...)
	seen := map[string]bool{}
	for _, s := range out {
		seen[s] = true
	}
	for _, s := range a.cfg.RetryJoin {
		if !seen[s] {
			out = append(out, s)
		}
	}
	return out
}

// Run brings the node up and keeps it up until ctx is done, then takes it down
// in reverse. An error means that not even the API could be opened.
func (a *Agent) Run(ctx context.Context) error {
	defer a.lock.Close()
	stopAPI, err := a.listenAPI(ctx)
	if err != nil {
		return err
	}
	defer stopAPI()
	stopMetrics, err := a.listenMetrics()
	if err != nil {
		return err
	}
	defer stopMetrics()
	var keep sync.WaitGroup
	defer keep.Wait()
	kept, stopKeeping := context.WithCancel(context.Background())
	defer stopKeeping()
	keep.Go(func() { a.keep(kept) })
	a.ending = func() bool { return ctx.Err() != nil }
	ready := sync.OnceFunc(a.opt.Ready)
	if !a.captureOnRecord(ctx) {
		ready()
	}
	for ctx.Err() == nil {
		down, cancel := context.WithCancel(ctx)
		var watch sync.WaitGroup
		between := func() {}
		watch.Go(func() {
			select {
			case between = <-a.again:
				cancel()
			case <-down.Done():
			}
		})
		l := newLadder(a.log, a.steps())
		l.pulse = &a.pulse
		a.mu.Lock()
		a.ladder = l
		a.mu.Unlock()
		l.run(down, func() { ready(); a.opt.Status(a.oneLine()) })
		cancel()
		watch.Wait()
		between()
	}
	return nil
}

// anew takes the node down, does f, and brings it up again. It returns when f is
// done.
func (a *Agent) anew(ctx context.Context, f func() error) error {
	done := make(chan error, 1)
	select {
	case a.again <- func() { done <- f() }:
		return <-done
	case <-ctx.Done():
		return ctx.Err()
	}
}

// keep writes the node's state soon after it changed.
func (a *Agent) keep(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			_ = a.memory.save() // said already
			return
		case <-a.memory.dirty:
		}
		pause := 200 * time.Millisecond // what a stand-in does not know when the agent dies is no older
		if a.memory.save() != nil {
			poke(a.memory.dirty)
			pause = time.Second
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

func (a *Agent) captureOnRecord(ctx context.Context) bool {
	if a.cap == nil {
		return false
	}
	st, err := a.cap.Status(ctx)
	if err != nil {
		a.log.Error("looking for a capture on record", "error", err)
	}
	return st.Applied
}

// steps is the order of coming up. Going down is the reverse.
func (a *Agent) steps() []step {
	return []step{
		{"identity", a.startIdentity},
		{"servers", a.startServers},
		{"sds", a.startSDS},
		{"relay", a.startRelay},
		{"dns", a.startDNS},
		{"capture", a.startCapture},
	}
}

// background runs f until stop is called.
func background(ctx context.Context, f func(context.Context)) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() { f(ctx) })
	return func() {
		cancel()
		wg.Wait()
	}
}

// startIdentity waits for the node to have joined: by a token in a file, or by
// `kerege join` meanwhile. What it had before is used, expired or not: traffic
// between running proxies must not depend on it.
func (a *Agent) startIdentity(ctx context.Context) (func(), error) {
	if _, ok := a.id.Mesh(); !ok {
		if a.cfg.Join.TokenFile == "" {
			return nil, identity.ErrNotJoined
		}
		if err := a.joinByFile(ctx); err != nil {
			return nil, err
		}
	}
	m, ok := a.id.Mesh()
	if !ok {
		return nil, identity.ErrNotJoined
	}
	if len(a.known(m.Servers)) == 0 {
		return nil, errNoServer
	}
	s, err := newServers(a.id.ClientTLS(), a.known(m.Servers))
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	a.servers = s
	a.mu.Unlock()
	stop := background(ctx, func(ctx context.Context) { a.id.Run(ctx, keregev1.NewSignClient(s)) })
	return func() {
		s.Close() // ends what waits for an answer
		stop()
	}, nil
}

func (a *Agent) startServers(ctx context.Context) (func(), error) {
	return background(ctx, a.talk), nil
}

// startSDS lets sockets serve certificates: each serves its own proxy's alone.
func (a *Agent) startSDS(context.Context) (func(), error) {
	serve := func(g grpc.ServiceRegistrar, w *workload) (wait func()) {
		s := sds.New(w.id.String(), a.id.Source(holder(w)), a.log.Named("sds"))
		s.Register(g)
		return s.Wait
	}
	set := func(f func(grpc.ServiceRegistrar, *workload) func()) {
		a.mu.Lock()
		defer a.mu.Unlock()
		a.secrets = f
	}
	set(serve)
	return func() { set(nil) }, nil
}

func (a *Agent) startRelay(ctx context.Context) (func(), error) {
	return background(ctx, a.tendProxies), nil
}

func (a *Agent) startCapture(ctx context.Context) (func(), error) {
	if a.cap == nil {
		return func() {}, nil
	}
	// First who stands in, then who stands in for nobody any more: the stand-in of
	// the agent before ends when it sees this one.
	guard := a.startGuard()
	// Brings the capture that is on record back, too.
	if err := a.cap.SetDNS(ctx, a.cfg.DNS.Enabled); err != nil {
		var missing *capture.Stop
		if !errors.As(err, &missing) {
			a.stopGuard(guard)
			return nil, err
		}
		// A slice that comes with the program, which may be waiting for us.
		a.log.Warn("a part of the capture is not back yet", "error", err)
	}
	stop := background(ctx, func(ctx context.Context) {
		if err := a.cap.Run(ctx); err != nil {
			a.log.Error("looking after the capture ended", "error", err)
		}
	})
	stopWatch := background(ctx, a.watchEnvoys)
	poke(a.poked)
	return func() {
		stopWatch()
		stop()
		// The rules stay: a restart of the agent never opens the node.
		if guard != nil && a.ending() {
			if err := guard.tell(notice{Leaving: true}); err != nil {
				a.log.Warn("the stand-in takes this for a crash, and waits for an agent without end", "error", err)
			}
			a.heir = guard // it sees our end and answers names until an agent is back
			return
		}
		// Names go back to who answered them before, for nobody here will.
		off, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		if err := a.cap.SetDNS(off, false); err != nil {
			a.log.Error("giving names back to the host's resolvers", "error", err)
		}
		a.stopGuard(guard)
	}, nil
}

// startGuard starts who stands in for this agent when it dies; nil: nobody does.
// mu is held, so that it is given each namespace's sockets once.
func (a *Agent) startGuard() *standIn {
	if len(a.opt.Guard) == 0 {
		return nil
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	guard, err := startStandIn(a.opt.Guard, will{Memory: a.memory.path, DNS: a.dnsOptions()}, a.sockets)
	if err != nil {
		a.log.Warn("nobody stands in for this agent when it dies", "error", err)
		return nil
	}
	a.guard = guard
	return guard
}

func (a *Agent) stopGuard(guard *standIn) {
	if guard == nil {
		return
	}
	a.mu.Lock()
	a.guard = nil
	a.mu.Unlock()
	if err := guard.stop(); err != nil {
		a.log.Warn("stopping the stand-in", "error", err)
	}
}

// oneLine is what `systemctl status` shows.
func (a *Agent) oneLine() string {
	st := a.Status()
	in := 0
	for _, w := range st.Workloads {
		if w.State == "in" {
			in++
		}
	}
	where := "no server"
	if st.Servers.Connected {
		where = "connected"
	}
	return fmt.Sprintf("%s: %d of %d workloads in the mesh, %s", st.Node, in, len(st.Workloads), where)
}

var errLadder = errors.New("the agent is starting; try again in a moment")

func (a *Agent) standing(step string) error {
	a.mu.Lock()
	l := a.ladder
	a.mu.Unlock()
	if l == nil {
		return errLadder
	}
	return l.needs(step)
}
