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
	mark  string // of the node that the certificate was signed for; "": not said
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
			if !e.http || !p.sentAway(e.rules, e.mark) {
				// Only a node that was sent away is cut although its call is over.
				continue
			}
		}
		c := p.remember(e)
		if c == nil {
			continue
		}
		p.judge(e.place, c, map[call]bool{e.call: true}, l)
		if e.http && len(c.calls) == 0 {
			p.forget(e.place, c)
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
		p.use(c.caller, usage{calls: -1, bytes: -e.call.size()})
	}
	if len(c.calls) == 0 {
		p.forget(e.place, c) // it may be asked again; then it is told of again
	}
}

// remember returns nil where nothing is to be judged. What there is no room for is
// judged now and each time that Envoy tells of it, and is not remembered.
func (p *Proxy) remember(e event) *connection {
	caller, err := identify(e.uri)
	if err != nil {
		p.once(err, "a caller's certificate cannot be read; its connections are not watched")
		return nil
	}
	c := p.open[e.place]
	if c != nil && (c.caller != caller || c.mark != e.mark || c.http != e.http || c.rules != e.rules || !e.http && !c.since.Equal(e.began)) {
		p.forget(e.place, c) // another connection from the same port
		c = nil
	}
	if c == nil {
		s, found, err := p.find(e.place)
		if err != nil {
			p.once(err, "the socket of an open connection cannot be found; it would not be cut")
		}
		if err != nil || !found {
			return nil
		}
		c = &connection{socket: s, caller: caller, mark: e.mark, rules: e.rules, http: e.http, calls: map[call]bool{}, since: e.began}
		if !p.room(caller, usage{connections: 1}) {
			p.counts.Unwatched++
			return c
		}
		p.open[e.place] = c
		p.use(caller, usage{connections: 1})
	}
	if e.http && !c.calls[e.call] && p.open[e.place] == c {
		more := usage{calls: 1, bytes: e.call.size()}
		if !p.room(caller, more) {
			p.counts.Unwatched++
			return c
		}
		c.calls[e.call] = true
		p.use(caller, more)
	}
	return c
}

// usage is what connections take of what may be remembered.
type usage struct{ connections, calls, bytes int }

func (u usage) add(v usage) usage {
	return usage{u.connections + v.connections, u.calls + v.calls, u.bytes + v.bytes}
}

func (p *Proxy) use(caller mesh.Identity, more usage) {
	p.all = p.all.add(more)
	if sum := p.by[caller].add(more); sum != (usage{}) {
		p.by[caller] = sum
	} else {
		delete(p.by, caller)
	}
}

// room says whether a caller may take more: its own share never exceeds what it
// leaves to all others, so that none can fill the memory alone.
func (p *Proxy) room(caller mesh.Identity, more usage) bool {
	own, all := p.by[caller].add(more), p.all.add(more)
	return own.connections <= maxConnections-all.connections && own.calls <= maxCalls-all.calls && own.bytes <= maxCallBytes-all.bytes
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
