package delta

import (
	"cmp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unique"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
)

// Options of a Session. The zero value is right.
type Options struct {
	// Gate is how long a resource waits for what it names to be acknowledged,
	// and a change for the acknowledgement of the one before. 0: 15 s.
	Gate time.Duration
	// Refused says that a resource must not be sent on this stream, because
	// others refused it. It must be cheap. Nil: none.
	Refused func(*Resource) bool
	// Nacked is called in Receive for each refused resource. Nil: nobody asks.
	Nacked func(Nack)
}

// Session is the state of one stream. It is not safe for concurrent use.
type Session struct {
	opts    Options
	set     *Set
	kinds   map[string]*kind
	order   []*kind // in the order of additions
	reverse []*kind // in the order of removals
	nonce   uint64
	settle  time.Time // reconnected clients are told of what vanished after this
	known   time.Time // and what names it is unknown until this
}

// maxKinds bounds the types that one client may ask for.
const maxKinds = 32

// What a client may name is kept for as long as its stream: so many names of a
// type, each of so many bytes.
const (
	maxNames = 100_000
	maxName  = 512
)

// settleTime is how long a reconnected client has to say all that it holds.
const settleTime = time.Second

// New makes the session of a stream that was just opened.
func New(o Options) *Session {
	if o.Gate == 0 {
		o.Gate = 15 * time.Second
	}
	s := &Session{opts: o, kinds: map[string]*kind{}}
	for _, url := range []string{TypeSecret, TypeCluster, TypeEndpoints, TypeListener, TypeRoute, TypeExtension} {
		s.kind(url)
	}
	return s
}

// kind is the state of one resource type.
type kind struct {
	url    string
	asked  bool // the client has sent a request for it
	wild   bool // subscribed to everything
	answer bool // owed a response, even an empty one
	items  map[unique.Handle[string]]*item
	todo   []*item   // items to look at in Next
	flight []*flight // messages not acknowledged, oldest first
	probes [][]*item // parts of a refused message, each to be sent alone
	budget int       // probes left in the window that began at window
	window time.Time
	nacked int // items with a nack
	log    history
}

// item is one name of a type: what should be, against what the client has. A
// stream has one for each of its resources, so it is kept small.
type item struct {
	id      unique.Handle[string] // its name; one text for all streams
	want    *Resource
	sent    have   // the last thing sent; what the client has once it acknowledges
	acked   have   // what it is known to have accepted
	trouble *snag  // nil for most
	epoch   uint32 // counts the times that the client dropped it
	sub     bool   // subscribed by name
	forced  bool   // owed an answer, whatever it holds
	queued  bool   // in todo
	probing bool   // in probes
}

// snag is what only an item has that waits or was refused.
type snag struct {
	gated time.Time
	bad   []string // versions that it refused
	nack  *Nack
}

func (it *item) snag() *snag {
	if it.trouble == nil {
		it.trouble = &snag{}
	}
	return it.trouble
}

func (it *item) ungate() {
	if it.trouble != nil {
		it.trouble.gated = time.Time{}
		it.ease()
	}
}

// ease lets go of a snag that says nothing.
func (it *item) ease() {
	if sn := it.trouble; sn != nil && sn.gated.IsZero() && len(sn.bad) == 0 && sn.nack == nil {
		it.trouble = nil
	}
}

func (it *item) nack() *Nack {
	if it.trouble == nil {
		return nil
	}
	return it.trouble.nack
}

// have is what a client holds; the zero value is nothing.
type have struct{ r *Resource }

func holding(r *Resource) have { return have{r} }

// heard is a version that only the client knows, after a reconnect.
func heard(version string) have { return have{&Resource{Version: version}} }

// version is "" for nothing.
func (h have) version() string {
	if h.r == nil {
		return ""
	}
	return h.r.Version
}

// res is nil for nothing, and where only the client knows it.
func (h have) res() *Resource {
	if h.r == nil || h.r.Body == nil {
		return nil
	}
	return h.r
}

// flight is one message that was sent.
type flight struct {
	nonce   string
	at      time.Time
	late    bool // not acknowledged within the gate; taken as accepted
	entries []entry
}

type entry struct {
	it    *item
	what  have   // nothing: a removal
	prev  have   // acknowledged before
	epoch uint32 // of the item; another one now: the client has dropped it since
}

func (s *Session) kind(url string) *kind {
	k := s.kinds[url]
	if k == nil {
		k = &kind{url: url, items: map[unique.Handle[string]]*item{}}
		s.kinds[url] = k
		s.order = append(s.order, k)
		s.reverse = append(s.reverse, k)
		slices.SortStableFunc(s.reverse, func(a, b *kind) int {
			return cmp.Compare(removalRank[a.url], removalRank[b.url])
		})
	}
	return k
}

func (k *kind) item(name string) *item {
	id := unique.Make(name)
	it := k.items[id]
	if it == nil {
		it = &item{id: id}
		k.items[id] = it
	}
	return it
}

// find is item without making one.
func (k *kind) find(name string) *item { return k.items[unique.Make(name)] }

func (it *item) name() string { return it.id.Value() }

func (k *kind) setNack(it *item, n *Nack) {
	if it.nack() == n {
		return
	}
	if it.nack() != nil {
		k.nacked--
	}
	if n != nil {
		k.nacked++
	}
	it.snag().nack = n
	it.ease()
}

func (k *kind) covers(it *item) bool { return k.wild || it.sub }

func (k *kind) queue(it *item) {
	if !it.queued {
		it.queued = true
		k.todo = append(k.todo, it)
	}
}

// Want replaces what the client should have; only the latest counts. Until the
// first call nothing is sent. A nil set changes nothing.
func (s *Session) Want(set *Set) {
	if set == nil || set == s.set {
		return
	}
	var old []*Group
	if s.set != nil {
		old = s.set.Groups
	}
	room := [8]*Resource{} // a change of one group needs no more, mostly
	fresh := room[:0]
	i, j := 0, 0
	for i < len(old) || j < len(set.Groups) {
		switch {
		case j == len(set.Groups) || i < len(old) && old[i].Key < set.Groups[j].Key:
			s.unwant(set, old[i].Resources, nil)
			i++
		case i == len(old) || old[i].Key > set.Groups[j].Key:
			fresh = append(fresh, set.Groups[j].Resources...)
			j++
		default:
			if old[i] != set.Groups[j] {
				s.unwant(set, old[i].Resources, set.Groups[j].Resources)
				fresh = appendNew(fresh, old[i].Resources, set.Groups[j].Resources)
			}
			i, j = i+1, j+1
		}
	}
	for _, r := range fresh {
		k := s.kind(r.Type)
		it := k.item(r.Name)
		it.want = r
		if it.sent.version() == r.Version {
			it.sent = holding(r)
		}
		if it.acked.version() == r.Version {
			it.acked = holding(r)
		}
		k.queue(it)
	}
	s.set = set
}

// unwant drops the resources of a group that its successor does not name, but
// for what another group of the set has: it is that one's then.
func (s *Session) unwant(set *Set, old, now []*Resource) {
	for _, r := range old {
		for len(now) > 0 && before(now[0], r) {
			now = now[1:]
		}
		if len(now) > 0 && now[0].Type == r.Type && now[0].Name == r.Name {
			continue
		}
		k := s.kind(r.Type)
		if it := k.find(r.Name); it != nil && it.want == r {
			it.want = set.find(r)
			k.queue(it)
		}
	}
}

// find is the resource of the same type and name, of the last group that has one.
func (s *Set) find(r *Resource) *Resource {
	for _, g := range slices.Backward(s.Groups) {
		i, found := slices.BinarySearchFunc(g.Resources, r, func(a, b *Resource) int {
			return cmp.Or(strings.Compare(a.Type, b.Type), strings.Compare(a.Name, b.Name))
		})
		if found {
			return g.Resources[i]
		}
	}
	return nil
}

// appendNew adds what is in a group and not, at the same address, in the one
// before.
func appendNew(fresh, old, now []*Resource) []*Resource {
	for _, r := range now {
		for len(old) > 0 && before(old[0], r) {
			old = old[1:]
		}
		if len(old) == 0 || old[0] != r {
			fresh = append(fresh, r)
		}
	}
	return fresh
}

func before(a, b *Resource) bool { return a.Type < b.Type || a.Type == b.Type && a.Name < b.Name }

// target is what the client should be sent: what is wanted, or the last
// accepted when that was refused.
func (s *Session) target(it *item) *Resource {
	w := it.want
	if w == nil || w.Version == it.acked.version() {
		return w
	}
	if it.trouble != nil && slices.Contains(it.trouble.bad, w.Version) {
		return it.acked.res()
	}
	if s.opts.Refused != nil && s.opts.Refused(w) {
		return it.acked.res()
	}
	return w
}

func (s *Session) nextNonce() string {
	s.nonce++
	return strconv.FormatUint(s.nonce, 10)
}

// Message is a response as shared resources, for those who write bytes
// themselves.
type Message struct {
	Type      string
	Nonce     string
	Resources []*Resource // sorted by name
	Removed   []string    // sorted
}

// Response is the message as a protobuf.
func (m *Message) Response() *discovery.DeltaDiscoveryResponse {
	out := &discovery.DeltaDiscoveryResponse{TypeUrl: m.Type, Nonce: m.Nonce, RemovedResources: m.Removed}
	for _, r := range m.Resources {
		out.Resources = append(out.Resources, &discovery.Resource{Name: r.Name, Version: r.Version, Resource: r.Body})
	}
	return out
}
