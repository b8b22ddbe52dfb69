package delta

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	statuspb "google.golang.org/genproto/googleapis/rpc/status"
)

var sixTypes = []string{TypeSecret, TypeCluster, TypeEndpoints, TypeListener, TypeRoute, TypeExtension}

// model is a client with its own bookkeeping. A faithful one behaves like
// Envoy: it accepts everything and subscribes to what it hears of.
type model struct {
	t        *testing.T
	w        *world
	s        *Session
	set      *Set
	now      time.Time
	faithful bool
	held     map[string]map[string]string // type, name: version
	subs     map[string]map[string]bool   // "*" is the wildcard
	asked    map[string]bool
	due      []*discovery.DeltaDiscoveryResponse // to be answered
	owed     map[string]bool                     // endpoints that must follow their cluster
	had      map[string]string                   // accepted, by type and name
	mayAgain map[string]bool                     // type and name that may come again unchanged
	log      []string
}

func newModel(t *testing.T, w *world, faithful bool) *model {
	m := &model{t: t, w: w, now: time.Unix(1000, 0), faithful: faithful, held: map[string]map[string]string{}}
	for _, typ := range sixTypes {
		m.held[typ] = map[string]string{}
	}
	m.connect()
	return m
}

func (m *model) fail(format string, args ...any) {
	m.t.Helper()
	for _, l := range m.log {
		m.t.Log(l)
	}
	m.t.Fatalf(format, args...)
}

func (m *model) connect() {
	m.s = New(Options{})
	m.subs, m.asked, m.due = map[string]map[string]bool{}, map[string]bool{}, nil
	m.owed, m.mayAgain, m.had = map[string]bool{}, map[string]bool{}, map[string]string{}
	for typ, names := range m.held {
		for n, v := range names {
			m.had[typ+n] = v
		}
	}
	for _, typ := range sixTypes {
		m.subs[typ] = map[string]bool{}
	}
	m.log = append(m.log, "connect")
	if m.set != nil {
		m.s.Want(m.set)
	}
	if m.faithful {
		m.request(TypeCluster, []string{"*"}, nil)
		m.request(TypeListener, []string{"*"}, nil)
		m.follow()
	}
}

func (m *model) request(typ string, sub, unsub []string) {
	req := &discovery.DeltaDiscoveryRequest{TypeUrl: typ, ResourceNamesSubscribe: sub, ResourceNamesUnsubscribe: unsub}
	if !m.asked[typ] {
		if len(sub) == 0 && len(unsub) == 0 {
			m.subs[typ]["*"] = true
		}
		req.InitialResourceVersions = maps.Clone(m.held[typ])
	}
	for _, n := range unsub {
		if m.subs[typ]["*"] && m.subs[typ][n] && n != "*" {
			m.mayAgain[typ+n] = true
		}
		delete(m.subs[typ], n)
	}
	for _, n := range sub {
		m.subs[typ][n] = true
		m.mayAgain[typ+n] = true
		for held := range m.held[typ] {
			if n == "*" {
				m.mayAgain[typ+held] = true
			}
		}
	}
	m.asked[typ] = true
	for n := range m.held[typ] {
		if !m.subs[typ]["*"] && !m.subs[typ][n] {
			delete(m.held[typ], n)
			delete(m.had, typ+n)
			delete(m.owed, n)
		}
	}
	m.tell(req)
}

func (m *model) tell(req *discovery.DeltaDiscoveryRequest) {
	m.log = append(m.log, fmt.Sprintf("client: %v", req))
	if err := m.s.Receive(m.now, req); err != nil {
		m.fail("%v", err)
	}
}

// refs are what the held resources name, read from the bytes.
func (m *model) refs() map[Ref]bool {
	out := map[Ref]bool{}
	for typ, names := range m.held {
		for name, version := range names {
			if r := m.w.of(typ, name, version); r != nil {
				for _, ref := range r.Refs() {
					out[ref] = true
				}
			}
		}
	}
	return out
}

// follow subscribes to what is named and drops what no longer is.
func (m *model) follow() {
	refs := m.refs()
	for _, typ := range []string{TypeEndpoints, TypeRoute, TypeExtension, TypeSecret} {
		var sub, unsub []string
		for ref := range refs {
			if ref.Type == typ && !m.subs[typ][ref.Name] {
				sub = append(sub, ref.Name)
			}
		}
		for n := range m.subs[typ] {
			if !refs[Ref{typ, n}] {
				unsub = append(unsub, n)
			}
		}
		if len(sub)+len(unsub) > 0 {
			slices.Sort(sub)
			slices.Sort(unsub)
			m.request(typ, sub, unsub)
		}
	}
}

// step takes the next message, if there is one, and checks it.
func (m *model) step() bool {
	resp, wake := m.s.Next(m.now)
	if resp == nil {
		return false
	}
	m.log = append(m.log, fmt.Sprintf("server: %s nonce %s", say(resp), resp.Nonce))
	if !wake.Equal(m.now) {
		m.fail("after a message wake is %v", wake)
	}
	if m.faithful && (resp.TypeUrl == TypeListener || resp.TypeUrl == TypeRoute) && len(m.owed) > 0 {
		m.fail("%s before the endpoints of %v", say(resp), m.owed)
	}
	names := map[string]bool{}
	for _, r := range resp.Resources {
		if names[r.Name] {
			m.fail("%q twice in a message", r.Name)
		}
		names[r.Name] = true
		m.take(resp.TypeUrl, r)
	}
	if m.faithful {
		m.checkRefs(resp)
	}
	for _, n := range resp.RemovedResources {
		if names[n] {
			m.fail("%q is sent and removed", n)
		}
		delete(m.held[resp.TypeUrl], n)
		if resp.TypeUrl == TypeEndpoints {
			delete(m.owed, n)
		}
	}
	m.due = append(m.due, resp)
	if m.faithful {
		m.follow()
	}
	return true
}

func (m *model) wants(typ, name string) bool {
	return slices.ContainsFunc(m.set.Groups, func(g *Group) bool { return g.Key == typ+name })
}

func (m *model) take(typ string, r *discovery.Resource) {
	if !m.w.ever[typ+r.Name+r.Version] {
		m.fail("%s %s was never wanted", r.Name, r.Version)
	}
	if !m.subs[typ]["*"] && !m.subs[typ][r.Name] {
		m.fail("%s was never asked for", r.Name)
	}
	if m.faithful && m.held[typ][r.Name] == r.Version && !m.mayAgain[typ+r.Name] && !(typ == TypeEndpoints && m.owed[r.Name]) {
		m.fail("%s %s is sent again", r.Name, r.Version)
	}
	delete(m.mayAgain, typ+r.Name)
	m.held[typ][r.Name] = r.Version
	switch {
	case typ == TypeEndpoints:
		delete(m.owed, r.Name)
	case typ == TypeCluster && m.subs[TypeEndpoints][r.Name] && m.wants(TypeEndpoints, r.Name):
		m.owed[r.Name] = true
	}
}

// checkRefs: what the client holds names only what it holds; what it has to
// subscribe to first may be missing until then, but is never taken away.
func (m *model) checkRefs(resp *discovery.DeltaDiscoveryResponse) {
	refs := m.refs()
	for ref := range refs {
		if ref.Type == TypeCluster && m.held[TypeCluster][ref.Name] == "" {
			m.fail("%s, and the client lacks cluster %s", say(resp), ref.Name)
		}
	}
	for _, n := range resp.RemovedResources {
		if refs[Ref{resp.TypeUrl, n}] && m.held[resp.TypeUrl][n] != "" {
			m.fail("%s, and the client holds what names it", say(resp))
		}
	}
}

func (m *model) answer(nack bool) {
	if len(m.due) == 0 {
		return
	}
	resp := m.due[0]
	m.due = m.due[1:]
	req := &discovery.DeltaDiscoveryRequest{TypeUrl: resp.TypeUrl, ResponseNonce: resp.Nonce}
	if nack {
		req.ErrorDetail = &statuspb.Status{Message: "no"}
		for _, r := range resp.Resources { // it goes back to what it had
			if at := resp.TypeUrl + r.Name; m.held[resp.TypeUrl][r.Name] == r.Version {
				delete(m.held[resp.TypeUrl], r.Name)
				if m.had[at] != "" {
					m.held[resp.TypeUrl][r.Name] = m.had[at]
				}
			}
		}
	} else {
		for _, r := range resp.Resources {
			m.had[resp.TypeUrl+r.Name] = r.Version
		}
		for _, n := range resp.RemovedResources {
			delete(m.had, resp.TypeUrl+n)
		}
	}
	m.tell(req)
}

// settle answers everything until nothing comes; the client must then hold
// exactly what is wanted, as far as it asked.
func (m *model) settle() {
	for range 400 {
		for len(m.due) > 0 {
			m.answer(false)
		}
		if m.step() {
			continue
		}
		_, wake := m.s.Next(m.now)
		if wake.IsZero() {
			break
		}
		m.now = wake
	}
	if m.set == nil {
		return
	}
	want := map[string]map[string]string{}
	for _, typ := range sixTypes {
		want[typ] = map[string]string{}
	}
	for _, g := range m.set.Groups {
		r := g.Resources[0]
		if m.subs[r.Type]["*"] || m.subs[r.Type][r.Name] {
			want[r.Type][r.Name] = r.Version
		}
	}
	for _, typ := range sixTypes {
		refused := map[string]bool{}
		for _, ts := range m.s.Status().Types {
			for _, n := range ts.Nacks {
				refused[n.Type+n.Name] = true
			}
			if ts.State == Stale {
				m.fail("%s is stale at the end: %+v", ts.Type, ts)
			}
		}
		for name := range m.held[typ] {
			if want[typ][name] == "" && len(refused) == 0 && m.asked[typ] {
				m.fail("the client holds %s %s, which is not wanted", typ, name)
			}
		}
		for name, v := range want[typ] {
			if m.held[typ][name] != v && !refused[typ+name] {
				m.fail("the client holds %s %s %q, want %q", typ, name, m.held[typ][name], v)
			}
		}
	}
}

func runFaithful(t *testing.T, data []byte) {
	c := &choices{b: data}
	w := newWorld()
	m := newModel(t, w, true)
	for range 60 {
		if len(c.b) == 0 {
			break
		}
		switch c.n(8) {
		case 0, 1:
			m.set = w.wish(c)
			m.s.Want(m.set)
			m.log = append(m.log, "want: "+wanted(m.set))
			for n := range m.owed {
				if !m.wants(TypeEndpoints, n) {
					delete(m.owed, n)
					m.mayAgain[TypeEndpoints+n] = true
				}
			}
		case 2, 3, 4:
			m.step()
		case 5, 6:
			m.answer(false)
		case 7:
			if c.n(4) == 0 {
				m.connect()
			} else if len(m.due) == 0 { // an answer never takes as long as the gate
				m.now = m.now.Add(time.Duration(c.n(20)) * time.Second)
			}
		}
	}
	m.settle()
}

func wanted(s *Set) string {
	out := ""
	for _, g := range s.Groups {
		out += fmt.Sprint(" ", g.Resources[0].Name)
		for _, ref := range g.Resources[0].Refs() {
			out += "," + ref.Name
		}
	}
	return out
}

func runHostile(t *testing.T, data []byte) {
	c := &choices{b: data}
	w := newWorld()
	m := newModel(t, w, false)
	names := []string{"c0", "c1", "r0", "l0", "x", "s", "nobody", "*", "", "c2"}
	pick := func() (out []string) {
		for range c.n(4) {
			out = append(out, names[c.n(len(names))])
		}
		return out
	}
	for range 80 {
		if len(c.b) == 0 {
			break
		}
		typ := sixTypes[c.n(len(sixTypes))]
		switch c.n(9) {
		case 0:
			m.set = w.wish(c)
			m.s.Want(m.set)
		case 1:
			m.request(typ, pick(), pick())
		case 2, 3, 4:
			m.step()
		case 5:
			m.answer(c.n(3) == 0)
		case 6:
			m.tell(&discovery.DeltaDiscoveryRequest{TypeUrl: typ, ResponseNonce: fmt.Sprint(c.n(40)), ErrorDetail: &statuspb.Status{}})
			m.asked[typ] = true
			return // the model no longer knows what it holds: only that nothing crashes
		case 7:
			m.now = m.now.Add(time.Duration(c.n(20)) * time.Second)
		case 8:
			if c.n(4) == 0 {
				m.connect()
			}
		}
	}
	m.settle()
}

func seeds() [][]byte {
	var out [][]byte
	for seed := range 40 {
		r := rand.New(rand.NewPCG(uint64(seed), 1))
		b := make([]byte, 400)
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		out = append(out, b)
	}
	return out
}

// FuzzFaithful: a client that behaves like Envoy, answers in time and sees
// wishes come in any order is never told of what it has not been sent.
func FuzzFaithful(f *testing.F) {
	for _, b := range seeds() {
		f.Add(b)
	}
	f.Fuzz(runFaithful)
}

// FuzzHostile: no order of requests makes the session crash, send what was not
// asked for or wanted, or fail to converge once the client behaves.
func FuzzHostile(f *testing.F) {
	for _, b := range seeds() {
		f.Add(b)
	}
	f.Fuzz(runHostile)
}

// TestManyClients runs both with many more random inputs than the corpus has.
func TestManyClients(t *testing.T) {
	n := 1500
	if testing.Short() {
		n = 400
	}
	for seed := range n {
		r := rand.New(rand.NewPCG(uint64(seed), 2))
		b := make([]byte, 100+r.IntN(500))
		for i := range b {
			b[i] = byte(r.Uint32())
		}
		runFaithful(t, b)
		runHostile(t, b)
	}
}
