package plan

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/policy"
)

// CallChange is a caller whose right to a destination's port changes.
type CallChange struct {
	From, To  mesh.ServiceName
	Port      string // as mesh.Port.String says it
	Now, Then string // "everything", "nothing", "no such service", or what may and may not, in words
	Pos       mesh.Pos
	// Open is what happens to what the caller has open and may not open any more:
	// "cut", "finish", or "" where it loses nothing, or its destination is gone.
	Open string
}

// Gains says whether the caller could do nothing before, Loses whether it can do
// nothing after.
func (c CallChange) Gains() bool { return c.Now == nothing || c.Now == missing }
func (c CallChange) Loses() bool { return c.Then == nothing || c.Then == missing }

const (
	everything = "everything"
	nothing    = "nothing"
	missing    = "no such service"
)

// ProxyChange is what changes in one proxy's plan, by the names that the pieces
// have on the wire, sorted.
type ProxyChange struct {
	Proxy                   mesh.ProxyID
	Added, Removed, Changed []string // listeners, clusters, endpoints, routes and policies, each "<type> <name>"
}

// Changes compares two snapshots: which callers gain, lose or see changed what
// they may ask of whom, and which of the nodes' proxies are told something new.
// Only destinations whose keys differ are looked at.
func Changes(old, new *mesh.Snapshot, nodes []Node) ([]CallChange, []ProxyChange) {
	return callChanges(old, new), proxyChanges(old, new, nodes)
}

// Pairs is how many pairs of services Changes compares: what it costs.
func Pairs(old, new *mesh.Snapshot) int {
	return len(touched(old, new)) * (len(old.Services()) + len(new.Services()))
}

// touched are the destinations that a change of rights or services is about.
func touched(old, new *mesh.Snapshot) map[mesh.ServiceName]bool {
	dests := map[mesh.ServiceName]bool{}
	for _, k := range mesh.Diff(old, new) {
		switch k.Kind {
		case mesh.KindService:
			dests[mesh.ServiceName(k.Name)] = true
		case mesh.KindIntention:
			for _, name := range slices.Concat(old.Services(), new.Services()) {
				if mesh.MatchName(k.Name, name) {
					dests[name] = true
				}
			}
		}
	}
	return dests
}

func callChanges(old, new *mesh.Snapshot) []CallChange {
	dests := touched(old, new)
	var list []CallChange
	for _, to := range slices.Sorted(maps.Keys(dests)) {
		for _, from := range callersAround(old, new, to) {
			list = append(list, compareRights(old, new, from, to)...)
		}
		list = append(list, plaintextLost(old, new, to)...)
	}
	return list
}

// callersAround lists whom a change of a destination may concern: all services,
// and whom its intentions name besides.
func callersAround(old, new *mesh.Snapshot, to mesh.ServiceName) []mesh.ServiceName {
	list := slices.Concat(old.Services(), new.Services())
	for _, in := range slices.Concat(old.Intentions(to), new.Intentions(to)) {
		for _, r := range in.Rules {
			for _, f := range r.From {
				if !mesh.IsPattern(f) {
					list = append(list, mesh.ServiceName(f))
				}
			}
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}

func compareRights(old, new *mesh.Snapshot, from, to mesh.ServiceName) []CallChange {
	ports := map[string]mesh.Port{}
	for _, snap := range []*mesh.Snapshot{old, new} {
		if svc := snap.Service(to); svc != nil {
			for _, p := range svc.Ports {
				ports[p.String()] = p
			}
		}
	}
	var list []CallChange
	for _, name := range slices.Sorted(maps.Keys(ports)) {
		now, _ := right(old, from, to, name)
		then, pos := right(new, from, to, name)
		// A port that is there on one side only is a change of the service; it
		// concerns the callers that may use it.
		if now == then || now == missing && then == nothing || now == nothing && then == missing {
			continue
		}
		list = append(list, CallChange{From: from, To: to, Port: name, Now: now, Then: then, Pos: pos, Open: leftOpen(new, from, to, ports[name], now, then)})
	}
	return list
}

// Plaintext is, in a CallChange, whoever calls without a certificate.
const Plaintext mesh.ServiceName = "callers without a certificate"

// plaintextLost are the ports that took callers without a certificate and do so no more.
func plaintextLost(old, new *mesh.Snapshot, to mesh.ServiceName) (list []CallChange) {
	was, is := old.Service(to), new.Service(to)
	if was == nil || is == nil {
		return nil
	}
	for _, p := range is.Ports {
		i := slices.IndexFunc(was.Ports, func(o mesh.Port) bool { return o.String() == p.String() })
		if i < 0 || !strict(p) || strict(was.Ports[i]) {
			continue
		}
		if now, _ := right(old, "", to, p.String()); now != nothing {
			list = append(list, CallChange{From: Plaintext, To: to, Port: p.String(), Now: now, Then: nothing, Pos: is.Pos, Open: leftOpen(new, "", to, p, now, nothing)})
		}
	}
	return list
}

// leftOpen says what happens to what is open when now becomes then.
func leftOpen(new *mesh.Snapshot, from, to mesh.ServiceName, p mesh.Port, now, then string) string {
	if now == nothing || now == missing || then == everything || then == missing {
		return ""
	}
	req := policy.Request{From: caller(from), To: to, Port: p.Name, HTTP: p.Protocol != mesh.ProtocolTCP && p.Protocol != mesh.ProtocolTLS}
	if policy.Finishes(new.Intentions(to), req) {
		return "finish"
	}
	return "cut"
}

// right says in words what a caller may ask of a port, and which block says so.
func right(snap *mesh.Snapshot, from, to mesh.ServiceName, port string) (string, mesh.Pos) {
	svc := snap.Service(to)
	if svc == nil {
		return missing, mesh.Pos{}
	}
	i := slices.IndexFunc(svc.Ports, func(p mesh.Port) bool { return p.String() == port })
	if i < 0 {
		return missing, svc.Pos
	}
	p := svc.Ports[i]
	intentions := snap.Intentions(to)
	d := policy.Decide(intentions, svc.DefaultIntention, policy.Request{From: caller(from), To: to, Port: p.Name})
	l4 := p.Protocol == mesh.ProtocolTCP || p.Protocol == mesh.ProtocolTLS
	if l4 && d.Allowed {
		return everything, d.Pos
	} else if l4 {
		return nothing, d.Pos
	}
	return httpRight(intentions, svc.DefaultIntention, from, p)
}

// caller is an identity of a service; "" is none.
func caller(name mesh.ServiceName) mesh.Identity {
	if name == "" {
		return mesh.Identity{}
	}
	return mesh.ServiceIdentity("x", name)
}

// httpRight puts the blocks that speak of the caller into words.
func httpRight(intentions []*mesh.Intention, def mesh.Action, from mesh.ServiceName, p mesh.Port) (string, mesh.Pos) {
	var may, not []string
	var pos mesh.Pos
	all := def == mesh.ActionAllow
	for _, in := range intentions {
		for i := range in.Rules {
			r := &in.Rules[i]
			if !policy.Names(r, string(from)) || len(r.Ports) > 0 && !slices.Contains(r.Ports, p.Name) {
				continue
			}
			switch first := pos == (mesh.Pos{}); {
			case r.Action != mesh.ActionAllow && !policy.HasHTTP(r):
				return nothing, r.Pos
			case r.Action != mesh.ActionAllow:
				not = append(not, conditions(r))
			case !policy.HasHTTP(r):
				all, pos = true, r.Pos
			default:
				may = append(may, conditions(r))
				if first {
					pos = r.Pos
				}
			}
		}
	}
	words := everything
	if !all {
		if len(may) == 0 {
			return nothing, pos
		}
		words = joined(may)
	}
	if len(not) > 0 {
		words += " but not " + joined(not)
	}
	return words, pos
}

func joined(list []string) string {
	slices.Sort(list)
	return strings.Join(slices.Compact(list), ", ")
}

func conditions(r *mesh.Permission) string {
	words := strings.Join(r.Methods, "|")
	for _, w := range []struct{ what, text string }{{"", r.Path}, {"below ", r.PathPrefix}, {"matching ", r.PathRegex}} {
		if w.text != "" {
			words += " " + w.what + w.text
		}
	}
	return strings.TrimSpace(words)
}

func proxyChanges(old, new *mesh.Snapshot, nodes []Node) []ProxyChange {
	before, after := NewCompiler(old), NewCompiler(new)
	var list []ProxyChange
	for _, n := range nodes {
		was := before.Add(n)
		is := after.Add(n)
		a, b := pieces(was), pieces(is)
		c := ProxyChange{Proxy: n.ID}
		for _, name := range slices.Sorted(maps.Keys(b)) {
			if o, there := a[name]; !there {
				c.Added = append(c.Added, name)
			} else if !reflect.DeepEqual(o, b[name]) {
				c.Changed = append(c.Changed, name)
			}
		}
		for _, name := range slices.Sorted(maps.Keys(a)) {
			if _, there := b[name]; !there {
				c.Removed = append(c.Removed, name)
			}
		}
		if len(c.Added)+len(c.Removed)+len(c.Changed) > 0 {
			list = append(list, c)
		}
	}
	slices.SortFunc(list, func(a, b ProxyChange) int { return a.Proxy.Compare(b.Proxy) })
	return list
}

// pieces takes a plan apart into what is sent under a name of its own.
func pieces(p *Proxy) map[string]any {
	m := map[string]any{"listener outside": p.Outside}
	for _, in := range p.Inbound {
		c := *in
		c.Policy = nil
		m[fmt.Sprint("listener inbound/", in.Number)] = c
		m["policy "+in.Policy.Name] = in.Policy
	}
	for _, up := range p.Outbound {
		for _, port := range up.Ports {
			name := fmt.Sprint(up.Service, ":", port.Number)
			m["listener upstream/"+name] = []any{port.Protocol, port.Virtual, port.Idle, port.TCP}
			if port.Route != nil {
				m["route "+name] = port.Route
			}
			for _, d := range port.Direct {
				m["listener direct/"+d.Addr.String()] = []any{name, port.Protocol, port.Idle, d}
			}
			for _, cl := range port.Clusters {
				c := *cl
				c.Endpoints = nil
				m["cluster "+cl.Name] = c
				m["endpoints "+cl.Name] = cl.Endpoints
			}
		}
	}
	return m
}
