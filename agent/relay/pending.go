package relay

import (
	"strings"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc/codes"

	"github.com/kerege/kerege/xds/delta"
)

// answerWithin bounds how long a server waits for an Envoy. It gives up on a
// stream after 60 s; Envoy's own stream takes at most two gates of 15 s.
const answerWithin = 40 * time.Second

// pending is a server's message that was not answered yet.
type pending struct {
	typ, nonce string
	entries    []entry
	at         time.Time
}

type entry struct {
	at      delta.Ref
	version string
}

// answer acknowledges and refuses what Envoy has decided on, in order for each
// type, and returns when to look again; mu is held.
func (p *Proxy) answer(now time.Time) (wake time.Time) {
	if p.up == nil {
		return time.Time{}
	}
	for _, typ := range types {
		queue := p.pending[typ]
		for len(queue) > 0 {
			words, done := p.verdict(now, queue[0])
			if !done {
				wake = sooner(wake, queue[0].at.Add(answerWithin))
				break
			}
			req := &discovery.DeltaDiscoveryRequest{TypeUrl: typ, ResponseNonce: queue[0].nonce}
			if words != "" {
				req.ErrorDetail = &statuspb.Status{Code: int32(codes.InvalidArgument), Message: words}
			}
			p.up.send(req)
			queue = queue[1:]
		}
		p.pending[typ] = queue
	}
	return wake
}

// verdict says whether a message can be answered, and with which words it is
// refused. A removal cannot be refused and waits for nobody.
func (p *Proxy) verdict(now time.Time, d *pending) (words string, done bool) {
	late := !now.Before(d.at.Add(answerWithin))
	var refusals []string
	for _, e := range d.entries {
		it := p.view.items[e.at]
		if it == nil || it.latest.Version != e.version {
			continue // something newer took its place
		}
		if it.bad == e.version {
			refusals = append(refusals, naming(e.at.Name, it.words))
			continue
		}
		if !late && !p.settled(e, it) {
			return "", false
		}
	}
	if late {
		p.log.Warn("Envoy has not answered in time; its server is told that it accepted", "proxy", p.cfg.ID, "type", short(d.typ))
	}
	return strings.Join(refusals, "\n"), true
}

// settled says whether every connected Envoy that asks for a resource has it.
func (p *Proxy) settled(e entry, it *item) bool {
	if !p.begun || len(p.streams) == 0 {
		return true
	}
	if it.shown != it.latest {
		return false
	}
	for st := range p.streams {
		if s := st.session.Standing(e.at.Type, e.at.Name); s.Covered && s.Version != e.version {
			return false
		}
	}
	return true
}

// naming lets words say whom they mean, since a server reads that from them.
func naming(name, words string) string {
	if strings.Contains(words, name) {
		return words
	}
	return name + ": " + words
}
