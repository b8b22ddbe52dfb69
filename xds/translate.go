package xds

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"weak"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/plan"
	"github.com/kerege/kerege/xds/delta"
)

// Translator says plans in Envoy's words. It remembers the groups of what proxies
// share for as long as somebody holds the plan's unit, and is safe for concurrent use.
type Translator struct {
	mu        sync.Mutex
	upstreams map[upstreamKey]*delta.Group
	policies  map[policyKey][]*delta.Resource
	inbounds  map[inboundKey]*delta.Group
	groups    map[[32]byte]weak.Pointer[delta.Group]  // what is not shared by pointer, by its content
	bases     map[[32]byte]weak.Pointer[delta.Group]  // a proxy's own listeners, by what they are made of
	latest    map[latestKey]weak.Pointer[delta.Group] // the last group of an upstream that was made
}

// latestKey names an upstream's groups over time.
type latestKey struct {
	group    string
	captured bool
}

type upstreamKey struct {
	unit     weak.Pointer[plan.Upstream]
	captured bool // with listeners on virtual addresses
}

type policyKey struct {
	unit      weak.Pointer[plan.Policy]
	http, tcp bool
}

type inboundKey struct {
	unit   weak.Pointer[plan.Inbound]
	accept plan.Accept
}

// NewTranslator returns a Translator that has seen nothing.
func NewTranslator() *Translator {
	return &Translator{
		upstreams: map[upstreamKey]*delta.Group{},
		policies:  map[policyKey][]*delta.Resource{},
		inbounds:  map[inboundKey]*delta.Group{},
		groups:    map[[32]byte]weak.Pointer[delta.Group]{},
		bases:     map[[32]byte]weak.Pointer[delta.Group]{},
		latest:    map[latestKey]weak.Pointer[delta.Group]{},
	}
}

// Translate says one plan. Two plans that share an upstream get the same group
// for it, the same pointer. An error is a bug of ours, and names the resource.
func (t *Translator) Translate(p *plan.Proxy) (*delta.Set, error) {
	base, err := t.base(p)
	if err != nil {
		return nil, err
	}
	set := &delta.Set{Groups: []*delta.Group{base}}
	for _, in := range p.Inbound {
		g, err := t.inboundGroup(p, in)
		if err != nil {
			return nil, err
		}
		set.Groups = append(set.Groups, g)
	}
	for _, u := range p.Outbound {
		g, err := t.upstreamGroup(u, p.Node.OutboundPort != 0)
		if err != nil {
			return nil, err
		}
		set.Groups = append(set.Groups, g)
	}
	slices.SortFunc(set.Groups, func(a, b *delta.Group) int { return cmp.Compare(a.Key, b.Key) })
	return set, nil
}

// Next says a plan as Translate does, at the price of what differs from the plan
// before, whose set was was.
func (t *Translator) Next(before *plan.Proxy, was *delta.Set, p *plan.Proxy) (*delta.Set, error) {
	own := 1 + len(p.Inbound)
	if was != nil && before == p {
		return was, nil
	}
	if was == nil || !sameOwn(before, p) || len(was.Groups) != own+len(before.Outbound) {
		return t.Translate(p)
	}
	// A set's order is base, the inbound ports, then upstreams by service.
	groups := append(make([]*delta.Group, 0, own+len(p.Outbound)), was.Groups[:own]...)
	up, has := before.Outbound, was.Groups[own:]
	for _, u := range p.Outbound {
		for len(up) > 0 && up[0].Service < u.Service {
			up, has = up[1:], has[1:]
		}
		if len(up) > 0 && up[0] == u {
			groups = append(groups, has[0])
			continue
		}
		g, err := t.upstreamGroup(u, p.Node.OutboundPort != 0)
		if err != nil {
			return nil, err
		}
		groups = append(groups, g)
	}
	return &delta.Set{Groups: groups}, nil
}

// sameOwn says whether two plans have the same listeners with sockets and the
// same inbound ports. Where services are at loopback ports those listeners are
// made of upstreams, too.
func sameOwn(a, b *plan.Proxy) bool {
	return len(a.Node.Explicit) == 0 && len(b.Node.Explicit) == 0 && a.Node.ID == b.Node.ID && a.Node.InboundPort == b.Node.InboundPort &&
		a.Node.OutboundPort == b.Node.OutboundPort && a.Node.NoIPv6 == b.Node.NoIPv6 && a.Identity == b.Identity && a.Outside == b.Outside &&
		slices.Equal(a.Node.Accept, b.Node.Accept) && slices.Equal(a.Inbound, b.Inbound) && slices.Equal(a.Checks, b.Checks) && slices.Equal(a.Node.Bridge, b.Node.Bridge)
}

// base is what is the proxy's own: the listeners that have sockets.
func (t *Translator) base(p *plan.Proxy) (*delta.Group, error) {
	key := baseKey(p)
	if len(p.Node.Explicit) == 0 { // those are made of upstreams too
		t.mu.Lock()
		same := t.bases[key].Value()
		t.mu.Unlock()
		if same != nil {
			return same, nil
		}
	}
	w := &writer{}
	cause := mesh.Key{Kind: mesh.KindService, Name: string(p.Node.ID.Service)}
	var out []*delta.Resource
	if p.Node.OutboundPort != 0 {
		out = append(out, w.resource(outboundName, w.outbound(p), mesh.Key{Kind: mesh.KindMesh}))
		if p.Outside.Mode == mesh.OutboundAny {
			out = append(out, w.resource(passthroughName, w.local(passthroughName, nil), mesh.Key{Kind: mesh.KindMesh}))
		}
	} else {
		for _, e := range p.Node.Explicit {
			out = append(out, w.explicit(p, e))
		}
	}
	if p.Node.InboundPort != 0 {
		out = append(out, w.resource(inboundName, w.inbound(p), cause))
	}
	if w.err != nil {
		return nil, fmt.Errorf("translating the listeners of %s: %w", p.Node.ID.Service, w.err)
	}
	made := t.intern(group("base", out))
	if len(p.Node.Explicit) > 0 {
		return made, nil // the key says nothing of these
	}
	return t.remember(t.bases, key, made), nil
}

// baseKey sums up what a proxy's own listeners are made of, which is much less
// than its plan: they stay the same when its policies and upstreams change.
func baseKey(p *plan.Proxy) [32]byte {
	b := make([]byte, 0, 256)
	word := func(s string) { b = append(strconv.AppendInt(b, int64(len(s)), 10), ' '); b = append(b, s...) }
	number := func(n uint16) { b = append(strconv.AppendInt(b, int64(n), 10), ' ') }
	truth := func(v bool) { b = strconv.AppendBool(b, v) }
	word(string(p.Node.ID.Service))
	number(p.Node.InboundPort)
	number(p.Node.OutboundPort)
	truth(p.Node.NoIPv6)
	word(string(p.Outside.Mode))
	word(string(p.Outside.Caller))
	for _, in := range p.Inbound {
		word(string(in.Service))
		number(in.Number)
		number(in.Port)
		word(string(in.Protocol))
		word(string(in.MTLS))
		word(in.Policy.Name)
		word(in.Policy.TrustDomain)
		truth(in.Policy.Plaintext)
	}
	for _, c := range p.Checks {
		number(c.Port)
		word(c.From.String())
		word(c.Method)
		word(c.Path)
	}
	if len(p.Checks) > 0 {
		for _, a := range p.Node.Bridge {
			word(a.String())
		}
	}
	return sha256.Sum256(b)
}

// explicit is a service at a loopback port.
func (w *writer) explicit(p *plan.Proxy, e plan.Explicit) *delta.Resource {
	for _, u := range p.Outbound {
		for i := range u.Ports {
			if u.Service == e.Service && u.Ports[i].Number == e.Port {
				return w.resource(upstreamName(e.Service, e.Port), w.upstreamListener(u, &u.Ports[i], loopback(e.LocalPort)), u.Cause)
			}
		}
	}
	return w.resource(upstreamName(e.Service, e.Port), w.refusedListener(p, e), mesh.Key{Kind: mesh.KindIntention, Name: string(e.Service)})
}

// upstreamGroup is everything about one service that is called.
func (t *Translator) upstreamGroup(u *plan.Upstream, captured bool) (*delta.Group, error) {
	key := upstreamKey{weak.Make(u), captured}
	t.mu.Lock()
	found := t.upstreams[key]
	t.mu.Unlock()
	if found != nil {
		return found, nil
	}
	w := &writer{}
	var out []*delta.Resource
	for i := range u.Ports {
		p := &u.Ports[i]
		for _, c := range p.Clusters {
			out = append(out, w.resource(c.Name, w.cluster(c), c.Cause), w.resource(c.Name, endpoints(c.Endpoints, c.Name), endpointsCause(c)))
		}
		if p.Route != nil {
			routes, err := w.routes(p.Route, p.Clusters)
			if err != nil {
				return nil, fmt.Errorf("translating %s: %w", u.Service, err)
			}
			out = append(out, w.resource(p.Route.Name, routes, p.Route.Cause))
		}
		if at := virtualAddresses(p); captured && len(at) > 0 {
			l := w.upstreamListener(u, p, at)
			l.BindToPort = wrapperspb.Bool(false)
			out = append(out, w.resource(l.Name, l, u.Cause))
		}
		if captured {
			out = append(out, w.direct(u, p)...)
		}
	}
	if w.err != nil {
		return nil, fmt.Errorf("translating %s: %w", u.Service, w.err)
	}
	made := group("upstream/"+string(u.Service), out)
	t.resume(latestKey{made.Key, captured}, made)
	return keep(t, t.upstreams, key, made, u), nil
}

// resume puts the resources that the upstream's last group had into its new one
// where they are equal: what is made of a resource's bytes is made once, and a
// stream sees by the address that there is nothing to send.
func (t *Translator) resume(key latestKey, now *delta.Group) {
	t.mu.Lock()
	last := t.latest[key].Value()
	t.mu.Unlock()
	if last != nil {
		i := 0
		for j, r := range now.Resources {
			for i < len(last.Resources) && compareResources(last.Resources[i], r) < 0 {
				i++
			}
			if i < len(last.Resources) && compareResources(last.Resources[i], r) == 0 && last.Resources[i].Version == r.Version && last.Resources[i].Cause == r.Cause {
				now.Resources[j] = last.Resources[i]
			}
		}
	}
	made := weak.Make(now)
	t.mu.Lock()
	t.latest[key] = made
	t.mu.Unlock()
	runtime.AddCleanup(now, func(key latestKey) {
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.latest[key] == made {
			delete(t.latest, key)
		}
	}, key)
}

func endpointsCause(c *plan.Cluster) mesh.Key {
	if c.Endpoints == nil {
		return c.Cause
	}
	return c.Endpoints.Cause
}

// keep remembers what was made of a shared unit until nobody holds the unit. Of
// two that were made at once, the first stays.
func keep[K comparable, V any, U any](t *Translator, memo map[K]V, key K, made V, unit *U) V {
	t.mu.Lock()
	defer t.mu.Unlock()
	if first, ok := memo[key]; ok {
		return first
	}
	memo[key] = made
	runtime.AddCleanup(unit, func(key K) {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(memo, key)
	}, key)
	return made
}

// inboundGroup is what belongs to one port of the application: who may call it,
// and where it is.
func (t *Translator) inboundGroup(p *plan.Proxy, in *plan.Inbound) (*delta.Group, error) {
	key := inboundKey{unit: weak.Make(in)}
	if i := slices.IndexFunc(p.Node.Accept, func(a plan.Accept) bool { return a.Listen.Port() == in.Number }); i >= 0 && p.Node.InboundPort == 0 {
		key.accept = p.Node.Accept[i]
	}
	t.mu.Lock()
	found := t.inbounds[key]
	t.mu.Unlock()
	if found != nil {
		return found, nil
	}
	rules, err := t.policy(in.Policy, !isTCP(in.Protocol), isTCP(in.Protocol) || in.Protocol == mesh.ProtocolUnknown)
	if err != nil {
		return nil, err
	}
	w, out := &writer{}, slices.Clone(rules)
	var app *corev3.Address
	if key.accept.Listen.IsValid() {
		app = addressOf(key.accept.App)
		l := w.acceptListener(in, addressOf(key.accept.Listen))
		out = append(out, w.resource(l.Name, l, in.Cause))
	}
	for _, c := range w.apps(in, app) {
		out = append(out, w.resource(c.Name, c, in.Cause))
	}
	if w.err != nil {
		return nil, fmt.Errorf("translating port %d of %s: %w", in.Number, in.Service, w.err)
	}
	return keep(t, t.inbounds, key, t.intern(group(appCluster(in), out)), in), nil
}

// policy is the rules of a port, alike for all instances of its service.
func (t *Translator) policy(p *plan.Policy, http, tcp bool) ([]*delta.Resource, error) {
	key := policyKey{weak.Make(p), http, tcp}
	t.mu.Lock()
	found, ok := t.policies[key]
	t.mu.Unlock()
	if ok {
		return found, nil
	}
	w := &writer{}
	var out []*delta.Resource
	if http {
		out = append(out, w.resource(rbacName(p), w.extension(p), p.Cause))
	}
	if tcp {
		out = append(out, w.resource(callersName(p), callersSecret(p), p.Cause))
	}
	if len(p.Open) > 0 {
		out = append(out, w.resource(openName(p), openSecret(p), p.Cause))
	}
	if w.err != nil {
		return nil, fmt.Errorf("translating who may call %s: %w", p.Name, w.err)
	}
	return keep(t, t.policies, key, out, p), nil
}

// intern gives equal groups one address.
func (t *Translator) intern(g *delta.Group) *delta.Group {
	h := sha256.New()
	fmt.Fprintf(h, "%s\n", g.Key)
	for _, r := range g.Resources {
		fmt.Fprintf(h, "%s %q %s %v\n", r.Type, r.Name, r.Version, r.Cause)
	}
	return t.remember(t.groups, [32]byte(h.Sum(nil)), g)
}

// remember returns the group that memo has for a key, or keeps this one there for
// as long as somebody holds it.
func (t *Translator) remember(memo map[[32]byte]weak.Pointer[delta.Group], key [32]byte, g *delta.Group) *delta.Group {
	t.mu.Lock()
	defer t.mu.Unlock()
	if same := memo[key].Value(); same != nil {
		return same
	}
	made := weak.Make(g)
	memo[key] = made
	runtime.AddCleanup(g, func(key [32]byte) {
		t.mu.Lock()
		defer t.mu.Unlock()
		if memo[key] == made {
			delete(memo, key)
		}
	}, key)
	return g
}

func addressOf(a netip.AddrPort) *corev3.Address { return address(a.Addr().String(), a.Port()) }
