package main

import (
	"fmt"
	"slices"
	"time"
)

// contender is one system under test: a server process and its fleet.
type contender struct {
	name   string
	server *child // nil for Consul's own xDS
	peer   *consul
	fleet  *child
	idle   answer // what the server held before the first stream
	pid    int
	add    func(service, n int) (at int64, err error)
	remove func(service, n int) error
	result Result
	n      int // instance numbers used so far
}

// Result is what one contender reached.
type Result struct {
	Name      string
	beside    bool          // its rounds took turns with the floor's
	ColdStart time.Duration // until every stream held all
	ColdCPU   time.Duration
	Clients   time.Duration // CPU of the clients in the cold start
	ColdBytes int64         // a stream
	Idle      int64         // resident memory before the first stream, bytes
	RSS       int64         // with all streams
	Cases     []*Case
}

// Case is one kind of change.
type Case struct {
	Name       string
	Dependents int
	Rounds     int
	P50, P99   time.Duration // over all streams of all rounds
	Last       time.Duration // median over rounds of the last stream
	CPU        time.Duration // of the server, median over rounds
	CPUMean    time.Duration
	Bytes      int64   // median over rounds, of all messages
	Messages   int64   // median over rounds
	OfRound    float64 // median over rounds of a round's p99 against the floor's
	all, last  []time.Duration
	p99        []time.Duration // of each round
	cpu        []time.Duration
	bytes, msg []int64
}

// round makes one change and waits until every dependent has it, then takes it
// back.
func (c *contender) round(cs *Case, service int, counts bool) error {
	n := c.n%400 + 2
	c.n++
	a, err := c.fleet.ask(order{Expect: true, Service: service, N: n, Count: cs.Dependents, Patience: time.Minute})
	if err != nil {
		return err
	}
	if !a.Armed {
		return fmt.Errorf("%s: the fleet is not watching", c.name)
	}
	before := cpu(c.pid)
	at, err := c.add(service, n)
	if err != nil {
		return err
	}
	got, err := c.fleet.hear()
	if err != nil {
		return err
	}
	spent := cpu(c.pid) - before
	if counts {
		last := time.Duration(0)
		mine := len(cs.all)
		for _, t := range got.Seen {
			d := time.Duration(t - at)
			cs.all = append(cs.all, d)
			last = max(last, d)
		}
		cs.last = append(cs.last, last)
		cs.p99 = append(cs.p99, quantile(cs.all[mine:], 0.99))
		cs.cpu = append(cs.cpu, spent)
		cs.bytes = append(cs.bytes, got.Bytes-a.Bytes)
		cs.msg = append(cs.msg, got.Messages-a.Messages)
	}
	if err := c.remove(service, n); err != nil {
		return err
	}
	return c.calm()
}

// calm waits until the fleet hears nothing more.
func (c *contender) calm() error {
	var last int64 = -1
	quiet := 0
	for range 400 {
		a, err := c.fleet.ask(order{Totals: true})
		if err != nil {
			return err
		}
		if len(a.Problems) > 0 {
			return fmt.Errorf("%s: %v", c.name, a.Problems[:min(3, len(a.Problems))])
		}
		if a.Messages == last {
			quiet++
		} else {
			quiet = 0
		}
		if quiet >= 3 {
			return nil
		}
		last = a.Messages
		time.Sleep(60 * time.Millisecond)
	}
	return fmt.Errorf("%s: it never falls silent", c.name)
}

func (cs *Case) finish() {
	cs.Rounds = len(cs.cpu)
	if cs.Rounds == 0 {
		return
	}
	cs.P50, cs.P99 = quantile(cs.all, 0.5), quantile(cs.all, 0.99)
	cs.Last, cs.CPU = quantile(cs.last, 0.5), quantile(cs.cpu, 0.5)
	for _, d := range cs.cpu {
		cs.CPUMean += d / time.Duration(cs.Rounds)
	}
	cs.Bytes, cs.Messages = quantile(cs.bytes, 0.5), quantile(cs.msg, 0.5)
}

func quantile[T ~int64](list []T, q float64) T {
	list = slices.Clone(list)
	slices.Sort(list)
	return list[min(len(list)-1, int(q*float64(len(list))))]
}

// fleetOf starts the clients of a server and notes what the cold start cost.
func (c *contender) connect(addr, ids, tls string, s shape) error {
	before := cpu(c.pid)
	c.result.Idle = rss(c.pid)
	fleet, err := spawn(c.name+"'s clients", s.args("-role", "client", "-addr", addr, "-ids", ids, "-tls", tls)...)
	if err != nil {
		return err
	}
	c.fleet = fleet
	a, err := fleet.hear()
	if err != nil {
		return err
	}
	c.result.ColdStart, c.result.ColdCPU = a.Took, cpu(c.pid)-before
	c.result.Clients = cpu(fleet.cmd.Process.Pid)
	c.result.ColdBytes = a.Bytes / int64(s.P)
	if err := c.calm(); err != nil {
		return err
	}
	c.result.RSS = rss(c.pid)
	return nil
}

func (c *contender) stop() {
	if c.fleet != nil {
		c.fleet.stop()
	}
	if c.server != nil {
		c.server.stop()
	}
	if c.peer != nil {
		c.peer.stop()
	}
}

// own starts a server that is this program in a role, changed by orders.
func own(name, role string, s shape, extra ...string) (*contender, error) {
	srv, err := spawn(name, s.args(append([]string{"-role", role}, extra...)...)...)
	if err != nil {
		return nil, err
	}
	c := &contender{name: name, server: srv, pid: srv.cmd.Process.Pid, result: Result{Name: name}}
	c.add = func(service, n int) (int64, error) {
		a, err := srv.ask(order{Add: true, Service: service, N: n})
		return a.At, err
	}
	c.remove = func(service, n int) error {
		_, err := srv.ask(order{Remove: true, Service: service, N: n})
		return err
	}
	a, err := srv.hear()
	if err != nil {
		c.stop()
		return nil, err
	}
	if c.idle, err = srv.ask(order{Memory: true}); err != nil {
		c.stop()
		return nil, err
	}
	if err := c.connect(a.Addr, "kerege", a.TLS, s); err != nil {
		c.stop()
		return nil, err
	}
	return c, nil
}

// keregeOnConsul is kerege with a real Consul as its registry.
func keregeOnConsul(name, binary string, s shape) (*contender, error) {
	p, err := startConsul(binary, false)
	if err != nil {
		return nil, err
	}
	if err := p.fill(s, false); err != nil {
		p.stop()
		return nil, err
	}
	c, err := own(name, "kerege", s, "-registry", p.http)
	if err != nil {
		p.stop()
		return nil, err
	}
	c.peer = p
	c.add = func(service, n int) (int64, error) {
		at := time.Now().UnixNano()
		return at, p.register(service, n, false)
	}
	c.remove = p.deregister
	return c, nil
}

// peerConsul is Consul with its own xDS.
func peerConsul(name, binary string, limitsOff bool, s shape) (*contender, error) {
	p, err := startConsul(binary, limitsOff)
	if err != nil {
		return nil, err
	}
	c := &contender{name: name, peer: p, pid: p.cmd.Process.Pid, result: Result{Name: name}}
	if err := p.fill(s, true); err != nil {
		c.stop()
		return nil, err
	}
	c.add = func(service, n int) (int64, error) {
		at := time.Now().UnixNano()
		return at, p.register(service, n, true)
	}
	c.remove = p.deregister
	if err := c.connect(p.grpc, "consul", "", s); err != nil {
		c.stop()
		return nil, err
	}
	return c, nil
}
