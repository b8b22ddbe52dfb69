package cut

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/policy"
)

// Config of a Proxy.
type Config struct {
	ID          string // Envoy's node id
	InboundPort uint16 // where captured connections arrive; 0: at Accept
	// Accept are the ports where connections arrive without capture. A socket of any
	// other port is never touched, whatever is said in the proxy's name.
	Accept []uint16
	// Enter runs do in the network namespace of the proxy. Nil: it is this process's.
	Enter  func(do func() error) error
	Logger hclog.Logger
}

// Counts are what became of the connections of one proxy.
type Counts struct {
	Open      int   // known now
	Cut       int64 // ended, since the start
	Failed    int64 // to be ended, and the kernel did not
	Unwatched int64 // told of and not remembered, for there were too many
}

// Add is both together.
func (c Counts) Add(d Counts) Counts {
	return Counts{c.Open + d.Open, c.Cut + d.Cut, c.Failed + d.Failed, c.Unwatched + d.Unwatched}
}

// Bounds of what is remembered of one proxy. Its Envoy takes fewer connections.
const (
	maxConnections = 1 << 16
	maxCalls       = 1 << 16
	maxCallBytes   = 16 << 20 // of methods and paths
)

// lookAgain is how often what is remembered is held against the kernel's sockets.
const lookAgain = time.Minute

// Proxy is what is open at one Envoy.
type Proxy struct {
	cfg     Config
	log     hclog.Logger
	poked   chan struct{}
	readers sync.WaitGroup

	rulesMu sync.Mutex // Shown is called under another's lock: never held for long
	rules   map[string]policy.Rules

	mu     sync.Mutex
	kernel kernel // nil: not open yet
	open   map[place]*connection
	all    usage
	by     map[mesh.Identity]usage
	near   netip.Addr // the last socket's own address
	counts Counts
	said   map[string]time.Time // when a kind of trouble was logged last
}

// place is where a connection is, as the peer sees it.
type place struct{ peer, to netip.AddrPort }

type connection struct {
	socket socket
	caller mesh.Identity // the zero one: no certificate
	mark   string        // of the node that has the certificate
	rules  string        // name of those that judge it
	http   bool
	calls  map[call]bool // running, where http
	since  time.Time
}

// call is one HTTP call that runs.
type call struct {
	began        int64 // ns; with the rest it tells calls of one connection apart
	method, path string
}

func (c call) size() int { return len(c.method) + len(c.path) }

// New makes a Proxy that knows of nothing.
func New(c Config) *Proxy {
	if c.Logger == nil {
		c.Logger = hclog.NewNullLogger()
	}
	if c.Enter == nil {
		c.Enter = func(do func() error) error { return do() }
	}
	return &Proxy{cfg: c, log: c.Logger, poked: make(chan struct{}, 1), rules: map[string]policy.Rules{},
		open: map[place]*connection{}, by: map[mesh.Identity]usage{}, said: map[string]time.Time{}}
}

// Run judges what is open whenever the rules change, until ctx is done.
func (p *Proxy) Run(ctx context.Context) {
	tick := time.NewTicker(lookAgain)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			p.mu.Lock()
			if p.kernel != nil {
				p.kernel.close()
				p.kernel = nil
			}
			p.mu.Unlock()
			return
		case <-p.poked:
			p.judgeAll()
		case <-tick.C:
			p.prune()
			p.judgeAll()
		}
	}
}

// Wait returns when the reader of every stream has ended, which they do when the
// gRPC server has stopped.
func (p *Proxy) Wait() { p.readers.Wait() }

// Counts says what became of connections so far.
func (p *Proxy) Counts() Counts {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := p.counts
	out.Open = len(p.open)
	return out
}

func (p *Proxy) rulesOf(name string) (policy.Rules, bool) {
	p.rulesMu.Lock()
	defer p.rulesMu.Unlock()
	r, ok := p.rules[name]
	return r, ok
}

// sentAway says whether a certificate with this mark is believed no more. A port that
// is gone has no rules: those of any other port say the same.
func (p *Proxy) sentAway(name, mark string) bool {
	if mark == "" {
		return false
	}
	p.rulesMu.Lock()
	defer p.rulesMu.Unlock()
	if r, known := p.rules[name]; known {
		return r.SentAway(mark)
	}
	for _, r := range p.rules {
		if r.SentAway(mark) {
			return true
		}
	}
	return false
}

// judgeAll cuts what the rules deny by now.
func (p *Proxy) judgeAll() {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := newLook()
	for at, c := range p.open {
		p.judge(at, c, c.calls, l)
	}
	p.tell(l)
}

// look is one look at many connections, of which most are alike.
type look struct {
	verdicts map[question]verdict
	cuts     map[reason]*cuts
}

func newLook() *look { return &look{map[question]verdict{}, map[reason]*cuts{}} }

// reason is why connections were cut, and whose.
type reason struct {
	to     mesh.ServiceName
	caller mesh.Identity
	why    string
}

type cuts struct {
	connections, calls int
	first              place
	openFor            time.Duration // of the oldest
}

// tell logs who was cut: a line for each caller, however many connections it had.
func (p *Proxy) tell(l *look) {
	for r, c := range l.cuts {
		p.log.Info("connections are cut: their caller lost the right", "proxy", p.cfg.ID, "destination", r.to, "caller", name(r.caller),
			"because", r.why, "connections", c.connections, "calls", c.calls, "one_from", c.first.peer.String(), "to", c.first.to.String(),
			"open_for", c.openFor.Round(time.Millisecond))
	}
}

type question struct {
	rules  string
	caller mesh.Identity
	http   bool
	method string
	path   string
}

type verdict struct {
	may bool
	why string
}

// judge cuts a connection when it, or one of these calls on it, may not stay; mu is held.
func (p *Proxy) judge(at place, c *connection, calls map[call]bool, l *look) {
	rules, known := p.rulesOf(c.rules)
	if p.sentAway(c.rules, c.mark) {
		p.cut(at, c, reason{rules.To, c.caller, "its node was evicted, banned or replaced"}, l)
		return
	}
	if !known {
		return // of a port that is no more: Envoy drains it
	}
	ask := func(method, path string) verdict {
		q := question{c.rules, c.caller, c.http, method, path}
		v, asked := l.verdicts[q]
		if !asked {
			may, d := rules.MayStay(policy.Request{From: c.caller, HTTP: c.http, Method: method, Path: path})
			v = verdict{may, d.Reason}
			l.verdicts[q] = v
		}
		return v
	}
	if !c.http {
		if v := ask("", ""); !v.may {
			p.cut(at, c, reason{rules.To, c.caller, v.why}, l)
		}
		return
	}
	for k := range calls {
		if v := ask(k.method, k.path); !v.may {
			p.cut(at, c, reason{rules.To, c.caller, v.why}, l)
			return
		}
	}
}

// cut ends a connection; mu is held.
func (p *Proxy) cut(at place, c *connection, r reason, l *look) {
	calls := len(c.calls)
	p.forget(at, c)
	gone, err := p.destroy(c.socket)
	switch {
	case err != nil:
		p.counts.Failed++
		p.once(err, "a connection whose caller lost its right stays open", "caller", name(c.caller), "peer", at.peer.String(), "because", r.why)
		return
	case gone:
		return // it ended by itself
	}
	p.counts.Cut++
	if l.cuts[r] == nil {
		l.cuts[r] = &cuts{first: at}
	}
	sum := l.cuts[r]
	sum.connections, sum.calls, sum.openFor = sum.connections+1, sum.calls+calls, max(sum.openFor, time.Since(c.since))
}

func name(id mesh.Identity) string {
	if id == (mesh.Identity{}) {
		return "without a certificate"
	}
	return id.String()
}

// sayAgain is how long a kind of trouble stays out of the log once it is in.
const sayAgain = 10 * time.Minute

// once logs a trouble that may come with every connection. What is remembered is
// its kind: the error's own words may be of the proxy's user's making; mu is held.
func (p *Proxy) once(err error, text string, more ...any) {
	if at, said := p.said[text]; said && time.Since(at) < sayAgain {
		return
	}
	p.said[text] = time.Now()
	p.log.Error(text, append([]any{"proxy", p.cfg.ID, "error", fmt.Sprintf("%.300s", err)}, more...)...)
}

func (p *Proxy) forget(at place, c *connection) {
	if p.open[at] != c {
		return
	}
	delete(p.open, at)
	sum := usage{connections: -1, calls: -len(c.calls)}
	for k := range c.calls {
		sum.bytes -= k.size()
	}
	p.use(c.caller, sum)
}

// prune forgets what the kernel knows no more: the end of a connection may have
// been told to an agent that was away, or been dropped.
func (p *Proxy) prune() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.open) == 0 {
		return
	}
	k, err := p.reach()
	if err != nil {
		return // said when it is needed
	}
	alive, err := k.cookies()
	if err != nil {
		p.once(err, "open connections cannot be listed")
		return
	}
	for at, c := range p.open {
		if !alive[c.socket.cookie()] {
			p.forget(at, c)
		}
	}
}
