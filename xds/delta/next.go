package delta

import (
	"cmp"
	"slices"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

const (
	maxBatch    = 3 << 20 // bytes of resources in one message, unless one alone is larger
	maxFlight   = 64      // messages in flight of one type, answers included
	maxProbes   = 32      // parts of refused messages sent in probeWindow
	probeWindow = 10 * time.Second
)

// Removals go in this order: who names before who is named.
var removalRank = map[string]int{TypeListener: 1, TypeRoute: 2, TypeExtension: 2, TypeCluster: 3, TypeEndpoints: 4, TypeSecret: 5}

// Next is the next message to send now, or nil. wake is when to ask again if
// nothing else happens before; zero: not before Want or Receive.
func (s *Session) Next(now time.Time) (*discovery.DeltaDiscoveryResponse, time.Time) {
	m, wake := s.NextMessage(now)
	if m == nil {
		return nil, wake
	}
	return m.Response(), wake
}

// NextMessage is Next without the protobuf: the caller must send exactly what
// the message says, with its nonce.
func (s *Session) NextMessage(now time.Time) (*Message, time.Time) {
	t := &turn{Session: s, now: now}
	for _, k := range s.order {
		t.expire(k)
	}
	if s.set == nil {
		return nil, t.wake
	}
	m := t.choose()
	for _, k := range s.order {
		k.note(now)
		for _, f := range k.flight {
			if !f.late {
				t.at(f.at.Add(s.opts.Gate))
			}
		}
	}
	if m != nil {
		t.wake = now
	}
	return m, t.wake
}

// turn is one call of Next.
type turn struct {
	*Session
	now  time.Time
	wake time.Time
	held map[Ref]bool // what something that the client may hold names
	dark int          // the lowest removalRank of what the client holds and only it knows; 0: none
	slow bool         // a listener or route is waiting
}

func (t *turn) at(when time.Time) {
	if t.wake.IsZero() || when.Before(t.wake) {
		t.wake = when
	}
}

// expire takes as accepted what was not answered within the gate, so that a
// withheld ACK delays its dependants for a bounded time only.
func (t *turn) expire(k *kind) {
	for _, f := range k.flight {
		if f.late || t.now.Before(f.at.Add(t.opts.Gate)) {
			continue
		}
		f.late = true
		k.log.alarm = t.now
		for _, e := range f.entries {
			if e.epoch == e.it.epoch {
				e.it.acked = e.what
				k.queue(e.it)
			}
		}
	}
}

func (t *turn) choose() *Message {
	for _, k := range t.order {
		if !k.asked {
			continue
		}
		if m := t.additions(k); m != nil {
			return m
		}
		if m := t.probes(k); m != nil {
			return m
		}
	}
	for _, k := range t.reverse {
		if !k.asked || len(k.todo) == 0 {
			continue
		}
		if m := t.removals(k); m != nil {
			return m
		}
	}
	return nil
}

// paced says whether changes of k wait for an acknowledgement. Extensions and
// secrets do not: a right that was taken away must not wait.
func (k *kind) paced() bool {
	if k.url == TypeExtension || k.url == TypeSecret {
		return len(k.flight) >= maxFlight
	}
	return slices.ContainsFunc(k.flight, func(f *flight) bool { return !f.late })
}

// additions makes a message of what the client should have and lacks, and of
// the names that it asked for in vain.
func (t *turn) additions(k *kind) *Message {
	var send []*item
	var absent []*item
	paced, full := k.paced(), len(k.flight) >= maxFlight
	keep := k.todo[:0]
	for _, it := range k.todo {
		stay := true
		want := t.target(it)
		switch {
		case !k.covers(it) && !it.forced:
			stay = false
		case want != nil && (it.forced || want.Version != it.sent.version()):
			if full || it.probing && !it.forced || paced && !it.forced || k.covers(it) && t.gated(k, it, want) {
				break
			}
			send = append(send, it)
		case want == nil && it.sent.version() == "" && it.forced:
			if !full {
				absent = append(absent, it)
			}
		case want == nil && it.want == nil && it.sent.version() != "":
			it.ungate() // removals look at it
		default:
			stay, it.forced = false, false
			it.ungate()
			if it.want == nil || it.want.Version == it.acked.version() {
				k.setNack(it, nil)
			}
		}
		it.queued = stay
		if stay {
			keep = append(keep, it)
		} else {
			k.drop(it)
		}
	}
	clear(k.todo[len(keep):])
	if k.todo = keep; len(keep) == 0 && cap(keep) > 16 {
		k.todo = nil // the room of a first answer is not needed again
	}
	if len(send) == 0 && len(absent) == 0 && (!k.answer || len(keep) > 0) {
		return nil
	}
	return t.message(k, send, absent)
}

// gated says whether a listener or route waits for the clusters that it needs:
// for the gate at most until they are accepted, and always until they are sent.
func (t *turn) gated(k *kind, it *item, r *Resource) bool {
	if k.url != TypeListener && k.url != TypeRoute || t.clusters(r, t.clusterReady) {
		it.ungate()
		return false
	}
	sn := it.snag()
	if sn.gated.IsZero() {
		sn.gated = t.now
	}
	until := sn.gated.Add(t.opts.Gate)
	if t.now.Before(until) {
		t.at(until)
		t.slow = true
		return true
	}
	if !t.clusters(r, t.clusterSent) {
		t.slow = true // it is sent as soon as the answer before it has come, or is late
		return true
	}
	k.log.alarm = t.now
	return false
}

// clusters asks about each cluster that r needs.
func (t *turn) clusters(r *Resource, ok func(name string) bool) bool {
	for _, ref := range r.Refs() {
		switch ref.Type {
		case TypeCluster:
			if !ok(ref.Name) {
				return false
			}
		case TypeRoute:
			// A listener opens with its routes, and they with their clusters.
			if it := t.kinds[TypeRoute].find(ref.Name); it != nil {
				if want := t.target(it); want != nil && !t.clusters(want, ok) {
					return false
				}
			}
		}
	}
	return true
}

// clusterReady says whether the client has accepted the cluster as it should be,
// and some endpoints of it. A cluster that nobody wants, and a type that the
// client never asked for, hold up nothing.
func (t *turn) clusterReady(name string) bool {
	cds, eds := t.kinds[TypeCluster], t.kinds[TypeEndpoints]
	it := cds.find(name)
	if !cds.asked || it == nil || !cds.covers(it) || it.want == nil {
		return true
	}
	want := t.target(it)
	if it.acked.version() == "" || it.sent.version() != it.acked.version() || want != nil && want.Version != it.sent.version() {
		return false
	}
	if e := eds.find(name); eds.asked && e != nil && e.want != nil && e.acked.version() == "" {
		return false
	}
	return true
}

// clusterSent is false for a cluster that the client will be sent but was not.
func (t *turn) clusterSent(name string) bool {
	cds := t.kinds[TypeCluster]
	it := cds.find(name)
	return !cds.asked || it == nil || !cds.covers(it) || it.sent.version() != "" || t.target(it) == nil
}

// probes sends a part of a refused message alone, to find the guilty one.
func (t *turn) probes(k *kind) *Message {
	for len(k.probes) > 0 {
		if k.paced() {
			return nil
		}
		if t.now.Sub(k.window) >= probeWindow {
			k.window, k.budget = t.now, maxProbes
		}
		if k.budget == 0 {
			t.at(k.window.Add(probeWindow))
			return nil
		}
		var send []*item
		for _, it := range k.probes[0] {
			it.probing = false
			if want := t.target(it); k.covers(it) && want != nil && want.Version != it.sent.version() {
				if t.gated(k, it, want) {
					k.queue(it)
					continue
				}
				send = append(send, it)
			}
		}
		k.probes = k.probes[1:]
		if len(send) > 0 {
			k.budget--
			return t.message(k, send, nil)
		}
	}
	return nil
}

// removals makes a message of what the client should no longer have and nothing
// that it holds names. They come after what takes their place.
func (t *turn) removals(k *kind) *Message {
	if k.paced() || t.slow {
		return nil
	}
	var gone []*item
	for _, it := range k.todo {
		if it.want != nil || it.sent.version() == "" || !k.covers(it) {
			continue
		}
		if t.now.Before(t.settle) {
			t.at(t.settle)
			return nil
		}
		if !t.named(k, it) {
			gone = append(gone, it)
		}
	}
	if len(gone) == 0 {
		return nil
	}
	return t.message(k, nil, gone)
}

func (t *turn) named(k *kind, it *item) bool {
	if t.held == nil {
		t.held = map[Ref]bool{}
		for _, url := range []string{TypeListener, TypeRoute, TypeCluster} {
			for _, other := range t.kinds[url].items {
				t.hold(url, other, other.sent)
				t.hold(url, other, other.acked)
			}
			for _, f := range t.kinds[url].flight {
				for _, e := range f.entries {
					if !f.late {
						t.hold(url, e.it, e.what)
					}
				}
			}
		}
	}
	if t.held[Ref{k.url, it.name()}] {
		return true
	}
	return t.dark > 0 && removalRank[k.url] > t.dark
}

// hold notes what a version that the client may have names. What only the
// client knows may name anything until it is replaced; what cannot be replaced,
// because the client refused the next one, counts for the gate.
func (t *turn) hold(url string, it *item, h have) {
	if h.version() == "" {
		return
	}
	if h.res() == nil {
		if it.want != nil && t.target(it) == nil {
			if !t.now.Before(t.known) {
				return
			}
			t.at(t.known)
		}
		if rank := removalRank[url]; t.dark == 0 || rank < t.dark {
			t.dark = rank
		}
		return
	}
	for _, ref := range h.res().Refs() {
		t.held[ref] = true
	}
}

// message records what is sent and returns it. What does not fit stays queued.
func (t *turn) message(k *kind, send, gone []*item) *Message {
	byName := func(a, b *item) int { return cmp.Compare(a.name(), b.name()) }
	slices.SortFunc(send, byName)
	slices.SortFunc(gone, byName)
	m := &Message{Type: k.url, Nonce: t.nextNonce()}
	f := &flight{nonce: m.Nonce, at: t.now}
	size := 0
	for _, it := range send {
		r := t.target(it)
		n := len(r.Body.GetValue()) + len(r.Name) + 128
		if size > 0 && size+n > maxBatch {
			k.queue(it)
			continue
		}
		size += n
		m.Resources = append(m.Resources, r)
		f.entries = append(f.entries, entry{it: it, what: holding(r), prev: it.acked, epoch: it.epoch})
		it.sent, it.forced = holding(r), false
		it.ungate()
		if k.url == TypeCluster {
			t.follow(r)
		}
	}
	for _, it := range gone {
		m.Removed = append(m.Removed, it.name())
		f.entries = append(f.entries, entry{it: it, prev: it.acked, epoch: it.epoch})
		it.sent, it.forced = have{}, false
		k.queue(it)
	}
	k.answer = false
	k.flight = append(k.flight, f)
	k.log.sent = t.now
	return m
}

// follow owes the client the endpoints of a cluster that it is sent: a cluster
// that changes warms until they come again, changed or not.
func (t *turn) follow(cluster *Resource) {
	eds := t.kinds[TypeEndpoints]
	for _, ref := range cluster.Refs() {
		if ref.Type != TypeEndpoints {
			continue
		}
		if it := eds.find(ref.Name); it != nil && it.want != nil && eds.covers(it) {
			it.forced = true
			eds.queue(it)
		}
	}
}
