package config

import (
	"math"
	"net/netip"
	"slices"
	"strings"

	"github.com/kerege/kerege/mesh"
)

// builder makes mesh entries of checked nodes.
type builder struct {
	*parser
	mesh   *Mesh
	byName map[string]*node // service blocks
	broken bool             // something did not parse: what refers to it is not judged

	subsetted *speller // services with subsets; nil: nobody has asked
}

func (b *builder) build(root *node) {
	b.broken = root.bad
	if n := root.block("mesh"); n != nil {
		b.mesh.Config = &mesh.Config{
			TrustDomain: n.text("trust_domain"), MTLS: mesh.MTLS(n.text("mtls")),
			DefaultIntention: mesh.Action(n.text("default_intention")), Outbound: mesh.Outbound(n.text("outbound")), Pos: pos(n.rng),
		}
	}
	for _, n := range root.all("defaults") {
		b.mesh.Defaults = append(b.mesh.Defaults, mesh.Defaults{Label: n.label, Tuning: b.tuning(n), Pos: pos(n.rng)})
	}
	for _, n := range root.all("service") {
		b.byName[n.label] = n
		b.service(n)
	}
	for _, n := range root.all("route") {
		r := mesh.Route{Service: mesh.ServiceName(n.label), Pos: pos(n.rng)}
		for _, rule := range n.all("rule") {
			r.Rules = append(r.Rules, b.rule(rule))
		}
		b.mesh.Routes = append(b.mesh.Routes, r)
	}
	for _, n := range root.all("intention") {
		b.mesh.Intentions = append(b.mesh.Intentions, b.intention(n))
	}
	b.sort()
}

func (b *builder) sort() {
	m := b.mesh
	slices.SortFunc(m.Defaults, func(a, c mesh.Defaults) int { return strings.Compare(a.Label, c.Label) })
	slices.SortFunc(m.Services, func(a, c mesh.ServiceConfig) int { return strings.Compare(string(a.Name), string(c.Name)) })
	slices.SortFunc(m.Routes, func(a, c mesh.Route) int { return strings.Compare(string(a.Service), string(c.Service)) })
	slices.SortFunc(m.Intentions, func(a, c mesh.Intention) int { return strings.Compare(a.Label, c.Label) })
	slices.SortFunc(m.Instances, func(a, c mesh.Instance) int {
		return strings.Compare(string(a.Service)+" "+a.ID, string(c.Service)+" "+c.ID)
	})
}

func (b *builder) tuning(n *node) mesh.Tuning {
	t := mesh.Tuning{Protocol: mesh.Protocol(n.text("protocol")), Timeout: n.time("timeout"), IdleTimeout: n.time("idle_timeout"), Retry: b.retry(n), DialedDirectly: n.flagPtr("dialed_directly")}
	if x := n.block("balance"); x != nil {
		t.Balance = b.balance(x)
	}
	if x := n.block("limits"); x != nil {
		t.Limits = &mesh.Limits{MaxConnections: x.uint32Ptr("max_connections"), MaxPendingRequests: x.uint32Ptr("max_pending_requests"),
			MaxConcurrentRequests: x.uint32Ptr("max_concurrent_requests"), Pos: pos(x.rng)}
	}
	if x := n.block("outlier"); x != nil {
		t.Outlier = &mesh.Outlier{Consecutive5xx: x.uint32Ptr("consecutive_5xx"), Interval: x.time("interval"), Eject: x.time("eject"),
			AtMost: x.percent("at_most"), Off: x.flag("off"), Pos: pos(x.rng)}
	}
	if n.has("nodes") || n.has("jobs") {
		t.Places = &mesh.Places{Nodes: n.texts("nodes"), Jobs: n.texts("jobs"), Pos: pos(n.nameOf(either(n, "nodes", "jobs")))}
	}
	return t
}

// either is the one of two arguments that is there.
func either(n *node, one, other string) string {
	if n.has(one) {
		return one
	}
	return other
}

func (b *builder) retry(n *node) *mesh.Retry {
	x := n.block("retry")
	if x == nil {
		return nil
	}
	r := &mesh.Retry{Times: x.intPtr("times"), On: x.texts("on"), AnyMethod: x.flag("any_method"), PerTry: x.time("per_try"),
		Backoff: x.time("backoff"), BackoffMax: x.time("backoff_max"), Budget: x.percent("budget"), Pos: pos(x.rng)}
	if r.Backoff != nil && r.BackoffMax != nil && *r.BackoffMax < *r.Backoff {
		b.errorf(codeRange, x.whereArg("backoff_max"), "", "backoff_max is shorter than backoff")
	}
	return r
}

func (b *builder) balance(n *node) *mesh.Balance {
	out := &mesh.Balance{Policy: n.text("policy"), SlowStart: n.time("slow_start"), Pos: pos(n.rng)}
	hashes := out.Policy == "ring_hash" || out.Policy == "maglev"
	h := n.block("hash")
	switch {
	case h == nil && hashes:
		b.errorf(codeMissing, n.whereArg("policy"), `Add hash { header = "x-user" } to it.`, "policy = %q needs a hash block", out.Policy)
	case h != nil && !hashes:
		b.errorf(codeExclusive, h.where(), `Set policy = "maglev" or "ring_hash".`, "a hash block needs policy ring_hash or maglev")
	case hashes && n.has("slow_start"):
		b.errorf(codeExclusive, place{n.nameOf("slow_start"), n.in}, "Leave it out.", "slow_start has no effect with %s", out.Policy)
	}
	if h != nil {
		b.exactlyOne(h, "header", "cookie", "query", "source_ip")
		out.Hash = &mesh.Hash{Header: h.text("header"), Cookie: h.text("cookie"), Query: h.text("query"), SourceIP: h.flag("source_ip"), Pos: pos(h.rng)}
	}
	return out
}

// exactlyOne demands one argument of a group; atMostOne allows none.
func (b *builder) exactlyOne(n *node, names ...string) {
	if b.atMostOne(n, names...) == 0 && !n.bad {
		b.errorf(codeMissing, n.where(), "Set one of "+strings.Join(names, ", ")+".", "%s says nothing to compare with", n.schema.name)
	}
}

func (b *builder) atMostOne(n *node, names ...string) int {
	var first string
	count := 0
	for _, name := range names {
		if !n.has(name) {
			continue
		}
		if count++; count == 2 {
			d := b.errorf(codeExclusive, place{n.nameOf(name), n.in}, "Keep one of them.", "%s and %s exclude each other", first, name)
			b.relate(d, n.nameOf(first), "first here")
		}
		first = name
	}
	return count
}

func (b *builder) service(n *node) {
	s := mesh.ServiceConfig{Name: mesh.ServiceName(n.label), Tuning: b.tuning(n), MTLS: mesh.MTLS(n.text("mtls")),
		DefaultIntention: mesh.Action(n.text("default_intention")), Pos: pos(n.rng)}
	for _, x := range n.all("source") {
		ref := mesh.SourceRef{Kind: x.label, Service: x.text("service"), Datacenters: x.texts("datacenters"), Namespace: x.text("namespace"),
			Filter: x.text("filter"), Pos: pos(x.rng)}
		if ref.Filter != "" {
			ref.Match, _ = b.compileFilter(ref.Filter)
		}
		s.Sources = append(s.Sources, ref)
	}
	numbers := map[int]*node{}
	for _, x := range n.all("port") {
		number := x.int("port")
		if first := numbers[number]; first != nil && number != 0 {
			d := b.errorf(codeTwice, x.whereArg("port"), "A port has one name.", "port %d is there twice", number)
			b.relate(d, first.rng, "first here")
		}
		numbers[number] = x
		s.Ports = append(s.Ports, mesh.Port{Name: x.label, Number: uint16(number), Protocol: mesh.Protocol(x.text("protocol")), MTLS: mesh.MTLS(x.text("mtls")), Pos: pos(x.rng)})
	}
	for _, x := range n.all("subset") {
		sub := mesh.Subset{Name: x.label, Filter: x.text("filter"), Pos: pos(x.rng)}
		sub.Match, _ = b.compileFilter(sub.Filter)
		s.Subsets = append(s.Subsets, sub)
		b.mesh.places.subsets = append(b.mesh.places.subsets, placed{s.Name, sub, x.where()})
	}
	for _, x := range n.all("instance") {
		b.instance(s, x)
	}
	slices.SortFunc(s.Ports, func(a, c mesh.Port) int { return int(a.Number) - int(c.Number) })
	slices.SortFunc(s.Subsets, func(a, c mesh.Subset) int { return strings.Compare(a.Name, c.Name) })
	slices.SortFunc(s.Sources, func(a, c mesh.SourceRef) int { return strings.Compare(a.Kind, c.Kind) })
	b.mesh.Services = append(b.mesh.Services, s)
}

func (b *builder) instance(s mesh.ServiceConfig, n *node) {
	addr, err := netip.ParseAddr(n.text("address"))
	if err != nil {
		return // reported by the type's check
	}
	i := mesh.Instance{Service: s.Name, ID: n.label, Source: "file", Node: n.text("node"), Addr: netip.AddrPortFrom(addr.Unmap(), uint16(n.int("port"))),
		Tags: n.texts("tags"), Meta: n.textMap("meta"), Weight: uint32(max(1, n.int("weight"))), Pos: pos(n.rng)}
	slices.Sort(i.Tags)
	if i.Node != "" && mesh.CheckNode(i.Node) != nil {
		b.errorf(codeName, n.whereArg("node"), "A node's name has letters, digits, '-', '_' and '.'.", "node %s is no name of a node", shownText(i.Node))
	}
	if s.Places != nil && !s.Places.Name(&i) {
		d := b.errorf(codeExclusive, n.whereArg("node"), "Name its node there, or remove the instance.", "the instance %q is not where the service's %s lets it be", n.label, s.Places)
		b.relate(d, n.rng, "this instance")
	}
	b.mesh.Instances = append(b.mesh.Instances, i)
}

func (b *builder) rule(n *node) mesh.Rule {
	r := mesh.Rule{Name: n.label, Port: n.text("port"), Timeout: n.time("timeout"), IdleTimeout: n.time("idle_timeout"), Retry: b.retry(n),
		To: b.targets(n), RequestHeaders: b.headerOps(n.block("request_headers")), ResponseHeaders: b.headerOps(n.block("response_headers")), Pos: pos(n.rng)}
	for _, x := range n.all("match") {
		r.Matches = append(r.Matches, b.match(x))
	}
	if x := n.block("rewrite"); x != nil {
		r.Rewrite = &mesh.Rewrite{Path: x.text("path"), PathPrefix: x.text("path_prefix"), PathRegex: x.text("path_regex"), Host: x.text("host"), Pos: pos(x.rng)}
	}
	if x := n.block("redirect"); x != nil {
		code := x.int("code")
		if code == 0 {
			code = 308
		}
		r.Redirect = &mesh.Redirect{Scheme: x.text("scheme"), Host: x.text("host"), Port: uint32(x.int("port")), Path: x.text("path"), PathPrefix: x.text("path_prefix"), Code: code, Pos: pos(x.rng)}
	}
	if x := n.block("respond"); x != nil {
		r.Respond = &mesh.Respond{Status: x.int("status"), Body: x.text("body"), Pos: pos(x.rng)}
	}
	return r
}

func (b *builder) headerOps(n *node) *mesh.HeaderOps {
	if n == nil {
		return nil
	}
	return &mesh.HeaderOps{Set: n.textMap("set"), Add: n.textMap("add"), Remove: n.texts("remove"), Pos: pos(n.rng)}
}

func (b *builder) match(n *node) mesh.Match {
	b.atMostOne(n, "path", "path_prefix", "path_regex")
	m := mesh.Match{Path: n.text("path"), PathPrefix: n.text("path_prefix"), PathRegex: n.text("path_regex"), Methods: n.texts("methods"),
		From: n.texts("from"), GRPCService: n.text("grpc_service"), Pos: pos(n.rng)}
	if m.GRPCService != "" && m.Path+m.PathPrefix+m.PathRegex != "" {
		b.errorf(codeExclusive, place{n.nameOf("grpc_service"), n.in}, "A gRPC service is a path: keep one of them.", "grpc_service and a path exclude each other")
	}
	if len(n.args) == 0 && len(n.blocks) == 0 && !n.bad {
		b.errorf(codeEmpty, n.where(), "Say what it takes, or leave match out: the rule then takes every call.", "an empty match")
	}
	for _, x := range n.all("header") {
		m.Headers = append(m.Headers, b.valueMatch(x))
	}
	for _, x := range n.all("query") {
		m.Query = append(m.Query, b.valueMatch(x))
	}
	return m
}

func (b *builder) valueMatch(n *node) mesh.ValueMatch {
	b.exactlyOne(n, "exact", "prefix", "suffix", "contains", "regex", "in", "present")
	return mesh.ValueMatch{Name: n.label, Exact: n.textPtr("exact"), Prefix: n.textPtr("prefix"), Suffix: n.textPtr("suffix"), Contains: n.textPtr("contains"),
		Regex: n.textPtr("regex"), In: n.texts("in"), Present: n.flagPtr("present"), Invert: n.flag("invert"), IgnoreCase: n.flag("ignore_case"), Pos: pos(n.rng)}
}

// hundred is all of a rule's calls, in hundredths of a percent.
const hundred = 10000

func hundredths(percent float64) uint32 { return uint32(math.Round(percent * 100)) }

func (b *builder) intention(n *node) mesh.Intention {
	out := mesh.Intention{Label: n.label, Open: n.text("open"), Pos: pos(n.rng)}
	b.named(n.label, place{n.labelRng, n.in})
	for _, x := range n.blocks {
		for _, list := range []string{"from", "except"} {
			if v := x.args[list]; v != nil {
				for _, i := range v.items {
					b.named(i.text, place{i.rng, x.in})
				}
			}
		}
		out.Rules = append(out.Rules, mesh.Permission{Action: mesh.Action(x.schema.name), Name: x.text("name"), From: x.texts("from"), Except: x.texts("except"),
			Methods: x.texts("methods"), Path: x.text("path"), PathPrefix: x.text("path_prefix"), PathRegex: x.text("path_regex"), Ports: x.texts("ports"), Pos: pos(x.rng)})
	}
	return out
}

// named remembers where an intention speaks of one service.
func (b *builder) named(service string, where place) {
	if !strings.Contains(service, "*") {
		b.mesh.places.named = append(b.mesh.places.named, placed{service: mesh.ServiceName(service), where: where})
	}
}
