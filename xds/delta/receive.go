package delta

import (
	"errors"
	"fmt"
	"strings"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

// ErrRequest is wrapped by the errors of Receive: the client broke the
// protocol and its stream should be closed.
var ErrRequest = errors.New("bad xDS request")

// Receive takes a request of the client: subscriptions, and the answer to a
// message. A nonce that names no message in flight answers nothing, but its
// subscriptions count.
func (s *Session) Receive(now time.Time, req *discovery.DeltaDiscoveryRequest) error {
	url := req.GetTypeUrl()
	if url == "" {
		return fmt.Errorf("%w: it has no type_url", ErrRequest)
	}
	if s.kinds[url] == nil && len(s.order) >= maxKinds {
		return fmt.Errorf("%w: more than %d resource types on one stream", ErrRequest, maxKinds)
	}
	k := s.kind(url)
	if req.GetResponseNonce() != "" {
		s.answered(now, k, req)
	}
	sub, unsub := req.GetResourceNamesSubscribe(), req.GetResourceNamesUnsubscribe()
	for _, l := range req.GetResourceLocatorsSubscribe() {
		sub = append(sub[:len(sub):len(sub)], l.GetName())
	}
	for _, l := range req.GetResourceLocatorsUnsubscribe() {
		unsub = append(unsub[:len(unsub):len(unsub)], l.GetName())
	}
	if name, long := tooLong(sub, unsub, req.GetInitialResourceVersions()); long {
		return fmt.Errorf("%w: a name of %d bytes", ErrRequest, len(name))
	}
	first := !k.asked
	k.asked = true
	if first && len(sub) == 0 && len(unsub) == 0 {
		sub = []string{"*"} // the legacy way to say it
	}
	var initial map[string]string
	if first {
		initial = req.GetInitialResourceVersions()
	}
	for _, name := range unsub {
		k.unsubscribe(name)
	}
	for _, name := range sub {
		k.subscribe(name, initial)
	}
	s.reconnected(now, k, initial)
	k.note(now)
	if len(k.items) > maxNames {
		return fmt.Errorf("%w: more than %d names of %s", ErrRequest, maxNames, url)
	}
	return nil
}

// tooLong finds a name that no resource of ours has.
func tooLong(sub, unsub []string, initial map[string]string) (string, bool) {
	for _, list := range [][]string{sub, unsub} {
		for _, name := range list {
			if len(name) > maxName {
				return name, true
			}
		}
	}
	for name, version := range initial {
		if max(len(name), len(version)) > maxName {
			return name, true
		}
	}
	return "", false
}

func (k *kind) subscribe(name string, initial map[string]string) {
	if name == "*" {
		k.wild = true
		k.answer = len(initial) == 0
		for _, it := range k.items {
			k.owe(it, initial)
		}
		return
	}
	it := k.item(name)
	it.sub = true
	k.owe(it, initial)
}

// owe marks what a subscription must be answered with: everything that was
// asked for, but what a reconnecting client says it has.
func (k *kind) owe(it *item, initial map[string]string) {
	if initial[it.name()] == "" && (it.want != nil || it.sub) {
		it.forced = true
	}
	k.queue(it)
}

func (k *kind) unsubscribe(name string) {
	if name == "*" {
		k.wild, k.answer = false, false
		for _, it := range k.items {
			if !it.sub {
				k.forget(it)
			}
		}
		return
	}
	it := k.find(name)
	if it == nil || !it.sub {
		return
	}
	it.sub = false
	if k.wild {
		// It cannot know whether the wildcard still covers the name.
		it.forced = true
		k.queue(it)
		return
	}
	k.forget(it)
}

// forget drops all that was known of the client's copy.
func (k *kind) forget(it *item) {
	it.sent, it.acked, it.forced = have{}, have{}, false
	it.ungate()
	k.setNack(it, nil)
	it.epoch++
	k.drop(it)
}

// drop deletes an item that neither side speaks of. The list of things to do
// may still have it, with nothing to do.
func (k *kind) drop(it *item) {
	if it.want == nil && !it.sub && it.sent.version() == "" && it.acked.version() == "" && k.items[it.id] == it {
		k.setNack(it, nil)
		delete(k.items, it.id)
	}
}

// reconnected takes in what the client holds from a stream before.
func (s *Session) reconnected(now time.Time, k *kind, initial map[string]string) {
	for name, version := range initial {
		it := k.find(name)
		if version == "" || (it == nil || !it.sub) && !k.wild {
			continue
		}
		it = k.item(name)
		h := heard(version)
		if it.want != nil && it.want.Version == version {
			h = holding(it.want)
		}
		it.sent, it.acked = h, h
		k.queue(it)
		if s.settle.IsZero() {
			s.settle, s.known = now.Add(settleTime), now.Add(s.opts.Gate)
		}
	}
}

// answered takes an ACK or a NACK. An answer to a message answers the ones
// before it, which the client has handled in order.
func (s *Session) answered(now time.Time, k *kind, req *discovery.DeltaDiscoveryRequest) {
	at := -1
	for i, f := range k.flight {
		if f.nonce == req.GetResponseNonce() {
			at = i
		}
	}
	if at < 0 {
		return
	}
	done := k.flight[:at+1]
	k.flight = append([]*flight(nil), k.flight[at+1:]...)
	for i, f := range done {
		if i == at && req.GetErrorDetail() != nil {
			s.nacked(now, k, f, req.GetErrorDetail().GetMessage())
			continue
		}
		for _, e := range f.entries {
			k.accept(e)
		}
	}
	k.log.answered = now
}

func (k *kind) accept(e entry) {
	it := e.it
	if it.epoch != e.epoch {
		return
	}
	it.acked = e.what
	if n := it.nack(); n != nil && e.what.version() != n.Version && e.what.version() != e.prev.version() {
		k.setNack(it, nil)
	}
	k.queue(it)
	k.drop(it)
}

func (s *Session) nacked(now time.Time, k *kind, f *flight, words string) {
	var adds []entry
	for _, e := range f.entries {
		if e.what.version() == "" {
			k.accept(e) // there is no way to refuse a removal
			continue
		}
		if e.it.epoch != e.epoch {
			continue
		}
		if f.late {
			e.it.acked = e.prev
		}
		if e.it.sent.version() == e.what.version() {
			e.it.sent = e.it.acked
		}
		adds = append(adds, e)
		k.queue(e.it)
	}
	guilty := blame(k.url, adds, words)
	for _, e := range guilty {
		s.refuse(now, k, e, words)
	}
	if len(guilty) == 0 && len(adds) > 1 {
		half := len(adds) / 2
		k.probe(adds[:half])
		k.probe(adds[half:])
	}
}

func (k *kind) probe(part []entry) {
	items := make([]*item, 0, len(part))
	for _, e := range part {
		e.it.probing = true
		items = append(items, e.it)
	}
	k.probes = append(k.probes, items)
}

func (s *Session) refuse(now time.Time, k *kind, e entry, words string) {
	it := e.it
	if it.acked.version() == e.what.version() {
		// It takes back what it, or whoever spoke for it, had accepted.
		it.acked, it.sent = have{}, have{}
	}
	sn := it.snag()
	sn.bad = append(sn.bad, e.what.version())
	if len(sn.bad) > 64 {
		sn.bad = sn.bad[1:]
	}
	n := Nack{Type: k.url, Name: it.name(), Version: e.what.version(), Held: it.acked.version(), Words: words, At: now}
	if r := e.what.res(); r != nil {
		n.Cause, n.Resource = r.Cause, r
	}
	k.setNack(it, &n)
	k.log.nacks++
	if s.opts.Nacked != nil {
		s.opts.Nacked(n)
	}
}

// blame says which resources of a refused message the client means: the only
// one, or those that its words name. Envoy names the clusters and listeners
// that it refuses; its words about other types may name something else.
func blame(url string, adds []entry, words string) []entry {
	if len(adds) == 1 {
		return adds
	}
	if url != TypeCluster && url != TypeListener {
		return nil
	}
	var out []entry
	for _, e := range adds {
		if mentions(words, e.it.name()) {
			out = append(out, e)
		}
	}
	return out
}

func mentions(words, name string) bool {
	for from := 0; name != ""; {
		i := strings.Index(words[from:], name)
		if i < 0 {
			return false
		}
		i += from
		end := i + len(name)
		// Envoy writes "name: reason", so a colon with a space ends a name.
		after := end == len(words) || !inName(words[end]) ||
			(words[end] == ':' || words[end] == '.') && (end+1 == len(words) || words[end+1] == ' ')
		if (i == 0 || !inName(words[i-1])) && after {
			return true
		}
		from = i + 1
	}
	return false
}

func inName(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-_.:/", c) >= 0
}
