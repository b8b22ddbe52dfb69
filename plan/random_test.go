package plan

import (
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/kerege/kerege/mesh"
)

// hasTag is a subset's filter.
type hasTag string

func (h hasTag) Match(in *mesh.Instance) bool { return slices.Contains(in.Tags, string(h)) }

var (
	names    = []string{"api", "web", "users", "batch-a", "batch-b"}
	nodes    = []string{"n1", "n2"}
	tokens   = []string{"api", "web", "users", "batch-*", "*", "batch-a", "ghost"}
	subsets  = []string{"v1", "v2"}
	protocol = []mesh.Protocol{"", "tcp", "http", "grpc", "tls"}
)

func pick[T any](t *rapid.T, list []T, label string) T { return rapid.SampledFrom(list).Draw(t, label) }

func some(t *rapid.T, list []string, label string) []string {
	return rapid.SliceOfNDistinct(rapid.SampledFrom(list), 0, 2, rapid.ID[string]).Draw(t, label)
}

func chance(t *rapid.T, percent int, label string) bool {
	return rapid.IntRange(0, 99).Draw(t, label) < percent
}

func drawInstances(t *rapid.T, source, name string) mesh.Part {
	p := mesh.Part{Source: source, Scope: name}
	for i := range rapid.IntRange(0, 3).Draw(t, "instances") {
		p.Instances = append(p.Instances, mesh.Instance{
			Service: mesh.ServiceName(name), ID: fmt.Sprint(name, i), Source: source, Node: pick(t, nodes, "node"), Workload: pick(t, []string{"", "a1", "a2"}, "workload"),
			Addr:       netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, byte(rapid.IntRange(1, 3).Draw(t, "addr"))}), pick(t, []uint16{80, 8080, 9090}, "port")),
			Datacenter: pick(t, []string{"dc1", "dc2"}, "dc"), Tags: some(t, subsets, "tags"),
			Protocol: pick(t, []mesh.Protocol{"", "http", "tcp"}, "protocol"), PortName: pick(t, []string{"", "", "http"}, "portname"),
			Weight: uint32(rapid.IntRange(0, 2).Draw(t, "weight")), Health: pick(t, []mesh.Health{0, 1, 2, 3}, "health"),
			Locality: mesh.Locality{Zone: pick(t, []string{"", "z1"}, "zone")},
		})
	}
	return p
}

func drawAllocations(t *rapid.T, name string) mesh.Part {
	p := mesh.Part{Source: "allocations", Scope: name}
	for _, w := range some(t, []string{"a1", "a2"}, "allocations") {
		a := mesh.Allocation{Service: name, Workload: w}
		if chance(t, 70, "mapped") {
			a.Ports = append(a.Ports, mesh.PortMap{Host: 8080, App: pick(t, []uint16{80, 8000, 9090}, "app")})
		}
		if chance(t, 20, "own") {
			a.Addrs = []netip.Addr{netip.AddrFrom4([4]byte{10, 0, 0, 1})}
		}
		for range rapid.IntRange(0, 2).Draw(t, "probes") {
			a.Probes = append(a.Probes, mesh.Probe{Port: pick(t, []uint16{80, 8000, 8080}, "port"), Method: "GET", Path: pick(t, []string{"/", "/health"}, "path"), From: pick(t, []netip.Addr{{}, netip.MustParseAddr("10.9.9.9")}, "source")})
		}
		p.Allocations = append(p.Allocations, a)
	}
	return p
}

func drawMembers(t *rapid.T, name string) mesh.Part {
	p := mesh.Part{Source: "members", Scope: name}
	for _, n := range some(t, nodes, "members") {
		m := mesh.Member{Service: mesh.ServiceName(name), Node: n, Workload: pick(t, []string{"", "a1"}, "workload")}
		if chance(t, 30, "ports") {
			m.Ports = []uint16{8080}
		}
		p.Members = append(p.Members, m)
	}
	return p
}

func drawTuning(t *rapid.T) mesh.Tuning {
	var tn mesh.Tuning
	tn.Protocol = pick(t, protocol, "protocol")
	if chance(t, 30, "timeout") {
		tn.Timeout = new(time.Duration(rapid.IntRange(1, 3).Draw(t, "seconds")) * time.Second)
	}
	if chance(t, 30, "direct") {
		tn.DialedDirectly = new(rapid.Bool().Draw(t, "dialed"))
	}
	if chance(t, 30, "retry") {
		tn.Retry = &mesh.Retry{Times: new(rapid.IntRange(0, 3).Draw(t, "times"))}
	}
	return tn
}

func drawService(t *rapid.T, name string) mesh.ServiceConfig {
	s := mesh.ServiceConfig{
		Name: mesh.ServiceName(name), Tuning: drawTuning(t), MTLS: pick(t, []mesh.MTLS{"", "", "permissive", "disabled"}, "mtls"),
		DefaultIntention: pick(t, []mesh.Action{"", "", "allow", "deny"}, "default"),
	}
	if chance(t, 40, "ports") {
		s.Ports = append(s.Ports, mesh.Port{Name: "http", Number: 8080, Protocol: pick(t, protocol, "p")})
		if chance(t, 50, "second") {
			s.Ports = append(s.Ports, mesh.Port{Name: "admin", Number: 9090, MTLS: "permissive"})
		}
	}
	for _, sub := range some(t, subsets, "subsets") {
		s.Subsets = append(s.Subsets, mesh.Subset{Name: sub, Filter: sub, Match: hasTag(sub)})
	}
	if chance(t, 30, "source") {
		ref := mesh.SourceRef{Kind: "consul", Service: pick(t, append(names, "Legacy"), "of")}
		if chance(t, 30, "dc") {
			ref.Datacenters = []string{"dc1"}
		}
		if chance(t, 30, "filter") {
			ref.Filter, ref.Match = "v1", hasTag("v1")
		}
		s.Sources = append(s.Sources, ref)
	}
	return s
}

func drawRoute(t *rapid.T, name string) mesh.Route {
	r := mesh.Route{Service: mesh.ServiceName(name)}
	for i := range rapid.IntRange(0, 3).Draw(t, "rules") {
		rule := mesh.Rule{Name: fmt.Sprint("r", i), Pos: mesh.Pos{File: "r.hcl", Line: i + 1}, Port: pick(t, []string{"", "", "http"}, "port")}
		if chance(t, 60, "match") {
			rule.Matches = append(rule.Matches, mesh.Match{PathPrefix: pick(t, []string{"", "/v1"}, "path"), From: some(t, names, "from")})
		}
		for _, to := range some(t, []string{"api.v1", "api.v2", "users", "web.v1", "ghost"}, "to") {
			svc, sub, _ := strings.Cut(to, ".")
			target := mesh.Target{Service: mesh.ServiceName(svc), Subset: sub, IfEmpty: pick(t, []string{"", "fail"}, "empty")}
			if chance(t, 50, "weight") {
				target.Weight = new(uint32(rapid.IntRange(0, 10000).Draw(t, "w")))
			}
			rule.To = append(rule.To, target)
		}
		r.Rules = append(r.Rules, rule)
	}
	return r
}

func drawIntention(t *rapid.T, label string) mesh.Intention {
	in := mesh.Intention{Label: label}
	for range rapid.IntRange(1, 2).Draw(t, "blocks") {
		p := mesh.Permission{Action: pick(t, []mesh.Action{"allow", "allow", "deny"}, "action"), From: some(t, tokens, "from"), Except: some(t, tokens, "except")}
		if chance(t, 30, "path") {
			p.PathPrefix = "/v1"
		}
		if chance(t, 30, "onport") {
			p.Ports = []string{"http"}
		}
		in.Rules = append(in.Rules, p)
	}
	return in
}

// drawFile is the whole of the HCL files: one part, as registry/file sends it.
func drawFile(t *rapid.T, old mesh.Part) mesh.Part {
	p := old
	p.Source = "file"
	name := pick(t, names, "name")
	switch rapid.IntRange(0, 4).Draw(t, "block") {
	case 0:
		p.Mesh = &mesh.Config{DefaultIntention: pick(t, []mesh.Action{"", "allow"}, "default"), MTLS: pick(t, []mesh.MTLS{"", "permissive"}, "mtls")}
	case 1:
		p.Defaults = []mesh.Defaults{{Label: "*", Tuning: drawTuning(t)}, {Label: "batch-*", Tuning: drawTuning(t)}}
	case 2:
		p.Services = slices.DeleteFunc(slices.Clone(p.Services), func(s mesh.ServiceConfig) bool { return string(s.Name) == name })
		if chance(t, 80, "keep") {
			p.Services = append(p.Services, drawService(t, name))
		}
	case 3:
		p.Routes = slices.DeleteFunc(slices.Clone(p.Routes), func(r mesh.Route) bool { return string(r.Service) == name })
		if chance(t, 80, "keep") {
			p.Routes = append(p.Routes, drawRoute(t, name))
		}
	default:
		label := pick(t, append([]string{"batch-*", "*"}, names...), "label")
		p.Intentions = slices.DeleteFunc(slices.Clone(p.Intentions), func(in mesh.Intention) bool { return in.Label == label })
		if chance(t, 80, "keep") {
			p.Intentions = append(p.Intentions, drawIntention(t, label))
		}
	}
	return p
}

// drawPart is one edit: what one source says anew of one scope.
func drawPart(t *rapid.T, parts map[[2]string]mesh.Part) mesh.Part {
	name := pick(t, names, "name")
	switch rapid.IntRange(0, 9).Draw(t, "edit") {
	case 0, 1:
		return drawInstances(t, pick(t, []string{"consul", "nomad"}, "source"), pick(t, append(names, "Legacy"), "registered"))
	case 2:
		return drawMembers(t, name)
	case 3:
		return mesh.Part{Source: "vips", Scope: name, VIPs: []mesh.VIP{{Service: mesh.ServiceName(name), V4: netip.AddrFrom4([4]byte{240, 0, 0, byte(rapid.IntRange(1, 9).Draw(t, "vip"))})}}}
	case 4:
		return mesh.Part{Source: "retained", Retained: []mesh.Pair{{From: mesh.ServiceName(name), To: mesh.ServiceName(pick(t, names, "to"))}}}
	case 6:
		return drawAllocations(t, pick(t, append(names, "Legacy"), "registered"))
	case 5:
		return mesh.Part{Source: "ca", Bundle: []byte(pick(t, []string{"one", "two"}, "bundle")), Away: pick(t, [][]string{nil, {"a"}, {"a", "b"}}, "away")}
	}
	return drawFile(t, parts[[2]string{"file", ""}])
}

var equal = cmp.Options{cmpopts.EquateEmpty(), cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{})}

// After any edits, in any batches, with proxies coming and going and a source
// that is silent for a while, every kept plan is what Compile makes from nothing,
// and exactly the proxies whose plans differ are called dirty.
func TestIncrementalIsFull(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		snap, _ := mesh.Merge()
		c := NewCompiler(snap)
		parts := map[[2]string]mesh.Part{}
		for _, name := range []string{"web", "api", "batch-a"} {
			c.Add(Node{ID: mesh.ProxyID{Service: mesh.ServiceName(name), Node: "n1", Workload: pick(t, []string{"", "a1"}, "of")}, InboundPort: 15006, OutboundPort: 15001, Bridge: []netip.Addr{netip.MustParseAddr("172.26.64.1")}})
		}
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			if chance(t, 30, "proxy") {
				n := Node{ID: mesh.ProxyID{Service: mesh.ServiceName(pick(t, append(names, "ghost"), "service")), Node: pick(t, nodes, "on"), Workload: pick(t, []string{"", "a1"}, "of")}, InboundPort: 15006, OutboundPort: 15001, Bridge: pick(t, [][]netip.Addr{nil, {netip.MustParseAddr("172.26.64.1")}}, "bridge")}
				if chance(t, 20, "explicit") {
					n.Explicit = []Explicit{{Service: "api", Port: 8080, LocalPort: 9000}}
				}
				if chance(t, 30, "leaves") {
					c.Remove(n.ID)
				} else {
					c.Add(n)
				}
			}
			var batch []mesh.Part
			for range rapid.IntRange(1, 3).Draw(t, "batch") {
				p := drawPart(t, parts)
				parts[[2]string{p.Source, p.Scope}] = p
				batch = append(batch, p)
			}
			before := map[mesh.ProxyID]*Proxy{}
			for _, id := range c.Proxies() {
				before[id], _ = c.Proxy(id)
			}
			next, keys := snap.With(batch...)
			dirty := c.Update(next, keys)
			checkAll(t, c, snap, next, before, dirty)
			snap = next
		}
		for _, id := range c.Proxies() {
			c.Remove(id)
		}
		if len(c.units) != 0 || len(c.readers) != 0 {
			t.Fatalf("without proxies there are still %d units and %d keys", len(c.units), len(c.readers))
		}
	})
}

func checkAll(t *rapid.T, c *Compiler, old, snap *mesh.Snapshot, before map[mesh.ProxyID]*Proxy, dirty []mesh.ProxyID) {
	for _, id := range c.Proxies() {
		kept, problems := c.Proxy(id)
		want, wantProblems := Compile(NewView(snap), kept.Node)
		if d := diff(want, kept); d != "" {
			t.Fatalf("%s: kept plan differs (-full +kept):\n%s", id, d)
		}
		if d := diff(wantProblems, problems); d != "" {
			t.Fatalf("%s: problems differ (-full +kept):\n%s", id, d)
		}
		same := before[id] == kept || reflect.DeepEqual(before[id], kept)
		if (before[id] == kept) == slices.Contains(dirty, id) || !same && before[id] == kept {
			t.Fatalf("%s: equal plans: %v, same pointer: %v, dirty: %v", id, same, before[id] == kept, dirty)
		}
		if same && before[id] != kept && !namesCaller(old, snap, id.Service) {
			t.Fatalf("%s: it is called dirty, and its plan is equal", id)
		}
		checkPlan(t, kept)
	}
}

// namesCaller says whether a route names a caller: going over from an upstream of
// its own to the one for everybody may change a pointer and nothing else.
func namesCaller(old, snap *mesh.Snapshot, caller mesh.ServiceName) bool {
	for _, s := range []*mesh.Snapshot{old, snap} {
		for _, name := range s.Services() {
			if r := s.Route(name); r != nil && slices.Contains(namedCallers(r.Rules), string(caller)) {
				return true
			}
		}
	}
	return false
}

func diff(a, b any) string {
	if reflect.DeepEqual(a, b) {
		return ""
	}
	return cmp.Diff(a, b, equal)
}

// checkPlan holds what is true of every plan: every cluster that a rule names is
// there, weights add up, the last rule matches everything.
func checkPlan(t *rapid.T, p *Proxy) {
	for _, up := range p.Outbound {
		for _, port := range up.Ports {
			check := func(to []Weighted) {
				sum := uint32(0)
				for _, w := range to {
					sum += w.Weight
					if !slices.ContainsFunc(port.Clusters, func(c *Cluster) bool { return c.Name == w.Cluster }) {
						t.Fatalf("%s:%d names the cluster %s, which it does not have", up.Service, port.Number, w.Cluster)
					}
				}
				if sum != 10000 {
					t.Fatalf("%s:%d: weights %v add up to %d", up.Service, port.Number, to, sum)
				}
			}
			if port.TCP != nil {
				check(port.TCP)
			}
			if port.Route == nil {
				continue
			}
			for i, r := range port.Route.Rules {
				if r.To != nil {
					check(r.To)
				}
				if last := i == len(port.Route.Rules)-1; last != (len(r.Matches) == 0) {
					t.Fatalf("%s:%d: rule %d of %d has %d matches", up.Service, port.Number, i, len(port.Route.Rules), len(r.Matches))
				}
			}
		}
	}
}
