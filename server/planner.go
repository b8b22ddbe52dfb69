package server

import (
	"context"
	"sync"

	"github.com/hashicorp/go-hclog"

	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/plan"
	"github.com/kerege/kerege/xds"
	"github.com/kerege/kerege/xds/delta"
)

// snapshots is where the planner gets the mesh from: the registry's hub.
type snapshots interface {
	Changes() <-chan struct{}
	Take() (*mesh.Snapshot, []mesh.Key)
	Ready() <-chan struct{}
}

// sink is where a proxy's resources go: the ADS server's mailboxes.
type sink interface {
	Set(id string, set *delta.Set)
}

// planner keeps what every connected proxy should have in step with the mesh.
type planner struct {
	log       hclog.Logger
	sink      sink
	translate *xds.Translator

	mu       sync.Mutex
	ready    bool // until the hub is, no proxy gets anything
	compiler *plan.Compiler
	streams  map[mesh.ProxyID]int // open streams of each proxy
	waiting  map[mesh.ProxyID]plan.Node
}

func newPlanner(log hclog.Logger, s sink) *planner {
	return &planner{
		log: log, sink: s, translate: xds.NewTranslator(), compiler: plan.NewCompiler(&mesh.Snapshot{}),
		streams: map[mesh.ProxyID]int{}, waiting: map[mesh.ProxyID]plan.Node{},
	}
}

// run follows the mesh until ctx ends.
func (p *planner) run(ctx context.Context, mesh snapshots) error {
	select {
	case <-mesh.Ready():
	case <-ctx.Done():
		return nil
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-mesh.Changes():
			p.update(mesh.Take())
		}
	}
}

func (p *planner) update(snap *mesh.Snapshot, keys []mesh.Key) {
	p.mu.Lock()
	defer p.mu.Unlock()
	dirty := p.compiler.Update(snap, keys)
	if !p.ready {
		p.ready = true
		for id, n := range p.waiting {
			p.compiler.Add(n)
			p.push(id)
		}
		clear(p.waiting)
		return
	}
	for _, id := range dirty {
		p.push(id)
	}
}

// open is called when a proxy's stream opens; a proxy may have two at a time
// while it reconnects or restarts hot.
func (p *planner) open(n plan.Node) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.streams[n.ID]++
	if !p.ready {
		p.waiting[n.ID] = n
		return
	}
	p.compiler.Add(n)
	p.push(n.ID)
}

// close is called when a stream of a proxy ends.
func (p *planner) close(id mesh.ProxyID) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.streams[id]--; p.streams[id] > 0 {
		return
	}
	delete(p.streams, id)
	delete(p.waiting, id)
	p.compiler.Remove(id)
}

// push hands a proxy's resources to its mailbox. A translation that fails is our
// bug: the proxy keeps what it has, and the log names the resource.
func (p *planner) push(id mesh.ProxyID) {
	proxy, _ := p.compiler.Proxy(id)
	if proxy == nil {
		return
	}
	set, err := p.translate.Translate(proxy)
	if err != nil {
		p.log.Error("translating a plan failed; the proxy keeps what it has", "proxy", id.String(), "error", err)
		return
	}
	p.sink.Set(id.String(), set)
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
		if proxy, _ := p.compiler.Proxy(id); proxy != nil {
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
