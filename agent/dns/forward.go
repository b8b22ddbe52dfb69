package dns

import (
	"context"
	"errors"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"
	"github.com/miekg/dns"
)

const (
	upstreamTimeout = 2 * time.Second  // of one question to all resolvers together
	staleFor        = 30 * time.Second // how long an answer serves after its end when no resolver answers
	maxCached       = 10_000
	maxCachedBytes  = 4096            // of one answer; a larger one is not kept
	deadFor         = 2 * time.Second // how long nobody waits again for resolvers that did not answer, where something kept will do
	maxForwards     = 256             // at a time; more are answered SERVFAIL
)

// forwarder asks the host's own resolvers.
type forwarder struct {
	opt   Options
	log   hclog.Logger
	slots chan struct{}

	mu    sync.Mutex
	read  time.Time // of resolv.conf, last looked at
	mtime time.Time
	list  []string
	dead  time.Time // until then

	cache cache
}

func newForwarder(opt Options) *forwarder {
	return &forwarder{opt: opt, log: opt.Logger, slots: make(chan struct{}, maxForwards), cache: cache{entries: map[key]entry{}}}
}

// ask answers a question from the resolvers; from what they said a little while
// ago when none answers; with SERVFAIL otherwise.
func (f *forwarder) ask(q *dns.Msg, overTCP bool) *dns.Msg {
	select {
	case f.slots <- struct{}{}:
		defer func() { <-f.slots }()
	default:
		return failed(q)
	}
	k := keyOf(q)
	if f.isDead(time.Now()) {
		if m := f.cache.get(k, time.Now()); m != nil {
			m.Id, m.Question = q.Id, q.Question
			return m
		}
	}
	heard := false
	ctx, cancel := context.WithTimeout(context.Background(), upstreamTimeout)
	defer cancel()
	for _, upstream := range f.upstreams() {
		m, err := exchange(ctx, upstream, q, overTCP)
		if err != nil {
			f.log.Debug("a resolver does not answer", "resolver", upstream, "error", err)
			continue
		}
		heard = true
		f.mark(time.Time{})
		if m.Rcode == dns.RcodeSuccess || m.Rcode == dns.RcodeNameError {
			if !m.Truncated {
				f.cache.put(k, m, time.Now())
			}
			return m
		}
		if m.Rcode != dns.RcodeServerFailure && m.Rcode != dns.RcodeRefused {
			return m
		}
	}
	if !heard {
		f.mark(time.Now().Add(deadFor))
	}
	if m := f.cache.get(k, time.Now()); m != nil {
		m.Id, m.Question = q.Id, q.Question
		return m
	}
	return failed(q)
}

func (f *forwarder) isDead(now time.Time) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return now.Before(f.dead)
}

func (f *forwarder) mark(dead time.Time) {
	f.mu.Lock()
	f.dead = dead
	f.mu.Unlock()
}

var errOther = errors.New("it answers another question")

// exchange puts a question to one resolver: over UDP with a timeout that leaves
// time for the next one, over TCP where the asker did, or the answer was cut.
func exchange(ctx context.Context, upstream string, q *dns.Msg, overTCP bool) (*dns.Msg, error) {
	ask := q.Copy()
	ask.Id = dns.Id()
	if opt := ask.IsEdns0(); opt != nil {
		opt.SetUDPSize(maxUDP)
	}
	client := &dns.Client{Net: "udp", Timeout: 900 * time.Millisecond, UDPSize: maxUDP}
	if overTCP {
		client.Net = "tcp"
	}
	m, _, err := client.ExchangeContext(ctx, ask, upstream)
	var timeout net.Error
	if err != nil && !overTCP && !(errors.As(err, &timeout) && timeout.Timeout()) {
		// A packet that cannot be read, or a closed port: the other transport may do.
		client.Net = "tcp"
		m, _, err = client.ExchangeContext(ctx, ask, upstream)
	}
	if err != nil {
		return nil, err
	}
	if !m.Response || len(m.Question) != 1 || !strings.EqualFold(m.Question[0].Name, q.Question[0].Name) || m.Question[0].Qtype != q.Question[0].Qtype {
		return nil, errOther
	}
	m.Id = q.Id
	m.Question = q.Question
	return m, nil
}

func failed(q *dns.Msg) *dns.Msg {
	m := new(dns.Msg)
	m.SetRcode(q, dns.RcodeServerFailure)
	m.RecursionAvailable = true
	return m
}

// upstreams are the settings' resolvers, or resolv.conf's, looked at once a second.
func (f *forwarder) upstreams() []string {
	if len(f.opt.Upstreams) > 0 {
		return f.opt.Upstreams
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if time.Since(f.read) < time.Second {
		return f.list
	}
	f.read = time.Now()
	info, err := os.Stat(f.opt.Resolv)
	if err != nil || info.ModTime().Equal(f.mtime) {
		return f.list
	}
	c, err := dns.ClientConfigFromFile(f.opt.Resolv)
	if err != nil {
		f.log.Warn("resolv.conf cannot be read; the resolvers before are asked", "error", err)
		return f.list
	}
	f.mtime, f.list = info.ModTime(), nil
	for _, server := range c.Servers {
		address := net.JoinHostPort(server, c.Port)
		if address != f.opt.Address && !slices.Contains(f.list, address) {
			f.list = append(f.list, address)
		}
	}
	return f.list
}
