package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/kerege/kerege/agent/capture"
	"github.com/kerege/kerege/agent/dns"
)

// StandIn waits on in for the end of the agent that started this process. When
// that died, it answers the names that the node remembers, on the agent's own
// sockets, and looks after the capture, until an agent is back or nothing is
// captured. The next agent is handed the sockets. Where it cannot answer, the
// jump of port 53 goes: broken DNS breaks logins. An agent that was stopped in
// order is stood in for no longer than standInFor: then names go back to the
// host's resolvers, and this ends. stateDir is the capture's.
func StandIn(ctx context.Context, stateDir string, in io.Reader, log hclog.Logger) error {
	d := &deputy{dir: stateDir, log: log}
	defer d.close()
	o := capture.Options{StateDir: stateDir, Log: log, KeepDNS: d.answers}
	file, is := in.(*os.File)
	if !is {
		return capture.Guard(ctx, o, in)
	}
	conn, err := unixConn(file)
	if err != nil { // a pipe tells of the agent's end too, and carries no sockets
		log.Warn("no sockets come this way; the jump of port 53 goes with the agent", "error", err)
		return capture.Guard(ctx, o, in)
	}
	defer conn.Close()
	return d.stand(ctx, func(ctx context.Context) error { return capture.Guard(ctx, o, agentEnd{conn, d}) }, func(ctx context.Context) error {
		o.KeepDNS = nil
		_, err := capture.New(o).Orphaned(ctx)
		return err
	})
}

// standInFor is longer than a restart or an upgrade of the agent takes. One that
// died is waited for without end: whoever runs it wants it back.
const standInFor = 10 * time.Minute

// stand guards until that ends by itself or the time of standing in is over; names
// are then released.
func (d *deputy) stand(ctx context.Context, guard, release func(context.Context) error) error {
	guarding, cancel := context.WithCancel(ctx)
	defer cancel()
	d.over = cancel
	err := guard(guarding)
	if d.timer != nil {
		d.timer.Stop()
	}
	if guarding.Err() == nil || ctx.Err() != nil {
		return err
	}
	d.log.Warn("no agent is back: names go back to the host's resolvers, the capture stays; kerege capture remove takes it out", "after", standInFor)
	return errors.Join(err, release(ctx))
}

// ended is called once, when the agent is gone.
func (d *deputy) ended() {
	d.begin()
	if d.stopped {
		d.timer = time.AfterFunc(standInFor, d.over)
	}
}

// agentEnd is what Guard waits on: it ends when the agent does.
type agentEnd struct {
	conn *net.UnixConn
	d    *deputy
}

// Read returns one byte when the agent ends in order, and io.EOF when it died.
func (a agentEnd) Read(b []byte) (int, error) {
	for {
		n, h, err := receive(a.conn)
		switch {
		case err != nil: // whatever it says, nothing comes any more
			a.d.ended()
			return 0, io.EOF
		case n.Leaving:
			a.d.stopped = true
		case n.Stop:
			return copy(b, "q"), nil
		case n.Will != nil:
			a.d.will = *n.Will
		case n.Gone != "":
			a.d.forget(n.Gone)
		case h != nil:
			a.d.held = append(a.d.held, *h)
		}
	}
}

// deputy answers in the place of an agent that is gone.
type deputy struct {
	dir     string
	log     hclog.Logger
	will    will
	held    []held
	stopped bool        // the agent said that it goes in order
	over    func()      // ends the guard
	timer   *time.Timer // until over; nil: no end

	mu      sync.Mutex
	server  *dns.Server // nil: it does not read
	ready   bool        // it answers, or an agent that took its sockets does
	takers  int         // agents that answer on these sockets now
	closing bool
	conns   map[*net.UnixConn]bool
	offer   *net.UnixListener
	work    sync.WaitGroup
}

// answers tells whether the agent's names are answered: here, or by another
// stand-in, as when an agent dies before it has told its own what to do.
func (d *deputy) answers() bool {
	d.mu.Lock()
	ready := d.ready
	d.mu.Unlock()
	if ready {
		return true
	}
	list, conn, err := takeOver(d.dir)
	if err != nil {
		return false
	}
	for _, h := range list {
		h.close()
	}
	conn.Close()
	return true
}

// forget closes what is held of a network namespace that ends.
func (d *deputy) forget(netns string) {
	d.held = slices.DeleteFunc(d.held, func(h held) bool {
		if h.netns == netns {
			h.close()
		}
		return h.netns == netns
	})
}

// begin answers, and offers the sockets to the next agent. What cannot be
// offered is not held: no agent could ever answer there again.
func (d *deputy) begin() {
	if len(d.held) == 0 {
		return
	}
	names, err := remembered(d.will.Memory)
	if err == nil {
		d.offer, err = offerAt(d.dir)
	}
	if err == nil {
		d.mu.Lock()
		err = d.serve(names)
		d.ready = err == nil
		d.mu.Unlock()
	}
	if err != nil {
		d.log.Error("the agent died, and its names cannot be answered: the jump of port 53 goes", "error", err)
		d.drop()
		return
	}
	d.conns = map[*net.UnixConn]bool{}
	d.work.Go(d.handOver)
	d.log.Warn("the agent is gone: its names are answered here until it is back", "names", len(names), "sockets", len(d.held))
}

// serve reads the sockets; mu is held.
func (d *deputy) serve(names []name) error {
	o := d.will.DNS
	o.Logger = d.log.Named("dns")
	s := dns.New(o)
	if names != nil {
		s.SetNames(dnsNames(names))
	}
	host := 0
	for _, h := range d.held {
		p, err := h.open()
		switch {
		case err == nil:
			s.Serve(p.packets, p.streams)
			if h.netns == "" {
				host++
			}
		case h.netns == "":
			s.Close()
			return err
		default:
			d.log.Error("names are not answered in a network namespace", "netns", h.netns, "error", err)
		}
	}
	if host == 0 {
		s.Close()
		return errors.New("none of its sockets is here")
	}
	d.server = s
	return nil
}

// handOver gives the sockets to each agent that asks.
func (d *deputy) handOver() {
	for {
		c, err := d.offer.AcceptUnix()
		if err != nil {
			return // closed
		}
		d.mu.Lock()
		if d.closing {
			d.mu.Unlock()
			c.Close()
			return
		}
		d.conns[c] = true
		d.work.Go(func() { d.hand(c) })
		d.mu.Unlock()
	}
}

// hand gives copies, and rests while the one that took them is alive: both read
// one queue, so nothing is lost on the way. When it died before it had a
// stand-in of its own, this one goes on.
func (d *deputy) hand(c *net.UnixConn) {
	defer func() {
		d.mu.Lock()
		delete(d.conns, c)
		d.mu.Unlock()
		c.Close()
	}()
	err := c.SetDeadline(time.Now().Add(handTimeout))
	for _, h := range d.held {
		if err == nil {
			err = sendPair(c, h)
		}
	}
	if err == nil {
		err = send(c, notice{End: true}, nil)
	}
	var n notice
	if err == nil {
		n, _, err = receive(c)
	}
	if err != nil || !n.Taken {
		d.log.Debug("the resolver's sockets were asked for and not taken over", "error", err)
		return
	}
	d.log.Info("an agent answers again")
	d.rest()
	_ = c.SetDeadline(time.Time{}) // one that stays set only has this one go on too
	_, _, _ = receive(c)           // nothing is said any more: its end
	d.resume()
}

func (d *deputy) rest() {
	d.mu.Lock()
	s := d.server
	d.server = nil
	d.takers++
	d.mu.Unlock()
	if s != nil {
		s.Close()
	}
}

func (d *deputy) resume() {
	names, err := remembered(d.will.Memory)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.takers--
	if d.closing || d.takers > 0 || d.server != nil {
		return
	}
	if err == nil {
		err = d.serve(names)
	}
	if err != nil {
		d.ready = false
		d.log.Error("the agent died again, and its names cannot be answered: the jump of port 53 goes", "error", err)
	}
}

func (d *deputy) drop() {
	for _, h := range d.held {
		h.close()
	}
	d.held = nil
	if d.offer != nil {
		d.offer.Close()
	}
}

func (d *deputy) close() {
	d.mu.Lock()
	d.closing = true
	for c := range d.conns {
		c.Close()
	}
	d.mu.Unlock()
	if d.offer != nil {
		d.offer.Close()
	}
	d.work.Wait()
	if d.server != nil {
		d.server.Close()
	}
	d.drop()
}

// handTimeout bounds each side of handing the sockets over.
const handTimeout = 2 * time.Second

// offerName is a socket in the capture's directory, which is root's alone.
const offerName = "guard.sock"

// throughDir runs do with a path of the directory that is short, as that of a
// unix socket must be.
func throughDir(dir string, do func(path string) error) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return do(fmt.Sprintf("/proc/self/fd/%d/%s", f.Fd(), offerName))
}

// offerAt listens; the socket of a stand-in before is replaced, and this one is
// left behind: it may be another's by then.
func offerAt(dir string) (l *net.UnixListener, err error) {
	err = throughDir(dir, func(path string) (err error) {
		if err := os.Remove(filepath.Join(dir, offerName)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		l, err = net.ListenUnix("unixpacket", &net.UnixAddr{Name: path, Net: "unixpacket"})
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("offering the resolver's sockets: %w", err)
	}
	l.SetUnlinkOnClose(false)
	return l, nil
}

// takeOver asks a stand-in of the agent before for the resolver's sockets. The
// stand-in rests from taken until conn ends.
func takeOver(dir string) (list []held, conn *net.UnixConn, err error) {
	err = throughDir(dir, func(path string) (err error) {
		conn, err = net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: path, Net: "unixpacket"})
		return err
	})
	if err == nil {
		err = conn.SetDeadline(time.Now().Add(handTimeout))
	}
	for err == nil {
		var n notice
		var h *held
		n, h, err = receive(conn)
		if h != nil {
			list = append(list, *h)
		}
		if n.End {
			return list, conn, nil
		}
	}
	for _, h := range list {
		h.close()
	}
	if conn != nil {
		conn.Close()
	}
	return nil, nil, fmt.Errorf("taking the resolver's sockets over: %w", err)
}

// remembered reads the names of the node's state, and changes nothing of it. They
// are nil where no server ever said any.
func remembered(path string) ([]name, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the node's names: %w", err)
	}
	var s state
	if err := json.Unmarshal(text, &s); err != nil {
		return nil, fmt.Errorf("reading the node's names: %w", err)
	}
	if s.Version != stateVersion {
		return nil, fmt.Errorf("reading the node's names: %s is of version %d, and this kerege reads %d", path, s.Version, stateVersion)
	}
	return s.known(), nil
}
