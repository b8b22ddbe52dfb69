package cut

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/kerege/kerege/mesh"
)

// event is what Envoy says of one connection, or of a call on it.
type event struct {
	place
	rules string
	uri   string // of the caller's certificate; "": none
	http  bool
	call  call // where http
	began time.Time
	over  bool
}

// take remembers what is open and forgets what is over. What is not allowed any
// more is cut at once: it was let in a moment before the rules changed.
func (p *Proxy) take(list []event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := newLook()
	for _, e := range list {
		if e.over {
			p.over(e)
			continue
		}
		if c := p.remember(e); c != nil {
			p.judge(e.place, c, map[call]bool{e.call: true}, l)
		}
	}
	p.tell(l)
}

func (p *Proxy) over(e event) {
	c := p.open[e.place]
	if c == nil {
		return
	}
	if !e.http {
		p.forget(e.place, c)
		return
	}
	if c.calls[e.call] {
		delete(c.calls, e.call)
		p.calls--
		p.bytes -= e.call.size()
	}
	if len(c.calls) == 0 {
		p.forget(e.place, c) // it may be asked again; then it is told of again
	}
}

// remember returns nil where nothing is to be judged.
func (p *Proxy) remember(e event) *connection {
	caller, err := identify(e.uri)
	if err != nil {
		p.once(err, "a caller's certificate cannot be read; its connections are not watched")
		return nil
	}
	c := p.open[e.place]
	if c != nil && (c.caller != caller || c.http != e.http || c.rules != e.rules || !e.http && !c.since.Equal(e.began)) {
		p.forget(e.place, c) // another connection from the same port
		c = nil
	}
	if c == nil {
		if len(p.open) >= maxConnections {
			p.counts.Unwatched++
			return nil
		}
		s, found, err := p.find(e.place)
		if err != nil {
			p.once(err, "the socket of an open connection cannot be found; it would not be cut")
		}
		if err != nil || !found {
			return nil
		}
		c = &connection{socket: s, caller: caller, rules: e.rules, http: e.http, calls: map[call]bool{}, since: e.began}
		p.open[e.place] = c
	}
	if e.http && !c.calls[e.call] {
		if p.calls >= maxCalls || p.bytes+e.call.size() > maxCallBytes {
			p.counts.Unwatched++
			if len(c.calls) == 0 {
				p.forget(e.place, c)
			}
			return nil
		}
		c.calls[e.call] = true
		p.calls++
		p.bytes += e.call.size()
	}
	return c
}

func identify(uri string) (mesh.Identity, error) {
	if uri == "" {
		return mesh.Identity{}, nil
	}
	return mesh.ParseIdentity(uri)
}

// find is the socket of a connection that Envoy took.
func (p *Proxy) find(at place) (s socket, found bool, err error) {
	k, err := p.reach()
	if err != nil {
		return s, false, err
	}
	port := at.to.Port()
	if p.cfg.InboundPort != 0 {
		port = p.cfg.InboundPort
	} else if !slices.Contains(p.cfg.Accept, port) {
		return s, false, nil
	}
	// A captured connection's socket has another address than its peer called: mostly
	// the same host address, else one that others had too.
	for _, local := range []netip.Addr{at.to.Addr(), p.near} {
		if !local.IsValid() || local.Is4() != at.peer.Addr().Is4() {
			continue
		}
		if s, found, err = k.find(netip.AddrPortFrom(local, port), at.peer); found || err != nil {
			return s, found, err
		}
	}
	list, err := k.search(port, at.peer)
	if err != nil || len(list) == 0 {
		return s, false, err
	}
	if len(list) > 1 {
		return s, false, fmt.Errorf("%d connections come from %s: which one is which is not known", len(list), at.peer)
	}
	p.near = list[0].local()
	return list[0], true, nil
}

// destroy says that the socket is gone where it has ended by itself.
func (p *Proxy) destroy(s socket) (gone bool, err error) {
	k, err := p.reach()
	if err != nil {
		return false, err
	}
	return k.destroy(s)
}

// kernel is the sockets of one network namespace.
type kernel interface {
	find(local, peer netip.AddrPort) (socket, bool, error)
	search(port uint16, peer netip.AddrPort) ([]socket, error)
	cookies() (map[uint64]bool, error)
	destroy(socket) (gone bool, err error)
	close()
}

// reach opens the way to the kernel where it is not yet; mu is held.
func (p *Proxy) reach() (kernel, error) {
	if p.kernel != nil {
		return p.kernel, nil
	}
	err := p.cfg.Enter(func() error {
		d, err := openDiag()
		if err == nil {
			p.kernel = d
		}
		return err
	})
	return p.kernel, err
}
