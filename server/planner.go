package server

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/plan"
	"github.com/kerege/kerege/xds"
	"github.com/kerege/kerege/xds/delta"
)

// snapshots is where the planner gets the mesh from: the registry's hub.
type snapshots interface {
	Changes() <-chan struct{}
	Snapshot() *mesh.Snapshot
	Take() (*mesh.Snapshot, []mesh.Key)
	Ready() <-chan struct{}
}

// sink is where a proxy's resources go: the ADS server's mailboxes.
type sink interface {
	Set(id string, set *delta.Set)
}

// planner keeps what every connected proxy should have in step with the mesh.
// One goroutine compiles; the ADS server's hooks only leave word.
type planner struct {
	log       hclog.Logger
	sink      sink
	translate *xds.Translator
	tell      func(*mesh.Snapshot, []mesh.Key) // hears of every snapshot first
	frost     *frost                           // nil: never frozen
	turning   sync.Mutex
	apart     bool                            // what proxies have is no snapshot of the hub's; turning is held
	known     chan struct{}                   // closed when the first snapshot was told
	know      func()                          // closes it
	pushed    func(time.Time, []mesh.ProxyID) // hears when a snapshot was taken and whom it gave new wishes; nil: nobody asks

	wordMu sync.Mutex
	word   []event
	poke   chan struct{} // capacity 1

	mu       sync.Mutex // compiler is read by the API, too
	compiler *plan.Compiler
	begun    bool // a snapshot was taken
	has      map[mesh.ProxyID]wish
}

// wish is what a proxy was last told: its plan, and that in Envoy's words.
type wish struct {
	plan *plan.Proxy
	set  *delta.Set
}

// event is a proxy's first stream that opened, or its last that closed.
type event struct {
	node plan.Node
	open bool
}

func newPlanner(log hclog.Logger, s sink, tell func(*mesh.Snapshot, []mesh.Key)) *planner {
	known := make(chan struct{})
	return &planner{known: known, know: sync.OnceFunc(func() { close(known) }), log: log, sink: s, tell: tell, translate: xds.NewTranslator(), poke: make(chan struct{}, 1), compiler: plan.NewCompiler(&mesh.Snapshot{}), has: map[mesh.ProxyID]wish{}}
}

// run follows the mesh until ctx ends. Until the hub is ready no proxy gets anything.
func (p *planner) run(ctx context.Context, hub snapshots) error {
	select {
	case <-hub.Ready():
	case <-ctx.Done():
		return nil
	}
	var wake <-chan struct{}
	if p.frost != nil {
		wake = p.frost.wake
		if p.frozen() { // who is placed where still counts: certificates are given as ever
			snap := hub.Snapshot()
			p.tell(snap, mesh.Diff(&mesh.Snapshot{}, snap))
			p.know()
		}
		select { // before the first push: no proxy has been answered yet
		case <-p.frost.thawed():
		case <-ctx.Done():
			return nil
		}
	}
	p.update(hub.Take())
	p.know()
	missed := false // something was there to be taken, and it was frozen
	for {
		changes := hub.Changes()
		if p.frozen() {
			changes = nil // they add up until they are taken
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changes:
			missed = !p.turn(hub) // it may have frozen between the look above and now
		case <-wake:
			if missed {
				missed = !p.turn(hub)
			}
		case <-p.poke:
			p.listen()
		}
	}
}

// turn takes what has changed, unless it is frozen. Who holds turning knows that
// nothing is being taken.
func (p *planner) turn(hub snapshots) bool {
	p.turning.Lock()
	defer p.turning.Unlock()
	if p.frozen() {
		return false
	}
	snap, keys := hub.Take()
	if p.apart { // keys are what differs from another snapshot
		keys, p.apart = mesh.Diff(p.told(), snap), false
	}
	p.update(snap, keys)
	return true
}

// told is the snapshot that the proxies were last told of; nil: none, since this start.
func (p *planner) told() *mesh.Snapshot {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.begun {
		return nil
	}
	return p.compiler.Snapshot()
}

// sentAway lets proxies know at once, through a freeze, that a node is out of the
// mesh and not to be trusted, and of nothing else that has changed. Where it is not
// frozen that comes by itself. False: no proxy is told anything before it thaws.
func (p *planner) sentAway(node string, away []string) bool {
	p.turning.Lock()
	defer p.turning.Unlock()
	if !p.frozen() {
		return true
	}
	told := p.told()
	if told == nil {
		return false
	}
	p.apart = true
	p.update(told.WithoutNode(node, away))
	return true
}

func (p *planner) frozen() bool { return p.frost != nil && p.frost.is() != nil }

func (p *planner) update(snap *mesh.Snapshot, keys []mesh.Key) {
	taken := time.Now()
	p.tell(snap, keys)
	p.mu.Lock()
	defer p.mu.Unlock()
	dirty := p.compiler.Update(snap, keys)
	p.begun = true
	p.push(dirty)
	if p.pushed != nil {
		p.pushed(taken, dirty)
	}
}

// settle waits until every proxy's mailbox has what a snapshot says, or ctx ends.
func (p *planner) settle(ctx context.Context, snap *mesh.Snapshot) {
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for {
		p.mu.Lock()
		there := p.compiler.Snapshot() == snap
		p.mu.Unlock()
		if there || p.frozen() {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// open is called when a stream of a proxy opens, close when its last one has
// ended. Neither blocks.
func (p *planner) open(n plan.Node)      { p.leave(event{node: n, open: true}) }
func (p *planner) close(id mesh.ProxyID) { p.leave(event{node: plan.Node{ID: id}}) }

func (p *planner) leave(e event) {
	p.wordMu.Lock()
	p.word = append(p.word, e)
	p.wordMu.Unlock()
	select {
	case p.poke <- struct{}{}:
	default:
	}
}

// listen takes in who came and went.
func (p *planner) listen() {
	p.wordMu.Lock()
	word := p.word
	p.word = nil
	p.wordMu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	var came []mesh.ProxyID
	for _, e := range word {
		if !e.open {
			p.compiler.Remove(e.node.ID)
			delete(p.has, e.node.ID)
			continue
		}
		p.compiler.Add(e.node)
		came = append(came, e.node.ID)
	}
	slices.SortFunc(came, mesh.ProxyID.Compare)
	p.push(slices.Compact(came))
}

// worthAHand is how many proxies one more worker takes: fewer are told sooner
// than it has begun.
const worthAHand = 32

// push hands proxies' resources to their mailboxes, with as many workers as
// there are cores. Each proxy is told once, so who tells whom makes no difference.
func (p *planner) push(ids []mesh.ProxyID) {
	now := make([]wish, len(ids))
	var next atomic.Int64
	work := func() {
		for i := next.Add(1) - 1; i < int64(len(ids)); i = next.Add(1) - 1 {
			now[i] = p.tellOne(ids[i])
		}
	}
	var hands sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), 1+len(ids)/worthAHand) - 1 {
		hands.Go(work)
	}
	work()
	hands.Wait()
	for i, id := range ids {
		if now[i].set != nil {
			p.has[id] = now[i]
		}
	}
}

// tellOne tells a proxy. A translation that fails is our bug: the proxy keeps
// what it has, and the log names the resource.
func (p *planner) tellOne(id mesh.ProxyID) wish {
	proxy := p.compiler.Plan(id)
	if proxy == nil {
		return wish{}
	}
	had := p.has[id]
	set, err := p.translate.Next(had.plan, had.set, proxy)
	if err != nil {
		p.log.Error("translating a plan failed; the proxy keeps what it has", "proxy", id.String(), "error", err)
		return wish{}
	}
	p.sink.Set(id.String(), set)
	return wish{proxy, set}
}

// problems lists what users wrote that cannot work as written, for a proxy.
func (p *planner) problems(id mesh.ProxyID) []plan.Problem {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, all := p.compiler.Proxy(id)
	return all
}

// nodes lists the connected proxies as they introduced themselves.
func (p *planner) nodes() []plan.Node {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []plan.Node
	for _, id := range p.compiler.Proxies() {
		if proxy := p.compiler.Plan(id); proxy != nil {
			all = append(all, proxy.Node)
		}
	}
	return all
}

// setsFor is what each connected proxy would have under another snapshot, and
// has under the current one: for `kerege plan`. Nothing is sent.
func (p *planner) setsFor(snap *mesh.Snapshot) (now, then map[mesh.ProxyID]*delta.Set, err error) {
	p.mu.Lock()
	current := p.compiler.Snapshot()
	p.mu.Unlock()
	now, then = map[mesh.ProxyID]*delta.Set{}, map[mesh.ProxyID]*delta.Set{}
	translate := xds.NewTranslator()
	for _, n := range p.nodes() {
		for snapshot, sets := range map[*mesh.Snapshot]map[mesh.ProxyID]*delta.Set{current: now, snap: then} {
			proxy, _ := plan.Compile(plan.NewView(snapshot), n)
			if sets[n.ID], err = translate.Translate(proxy); err != nil {
				return nil, nil, err
			}
		}
	}
	return now, then, nil
}
