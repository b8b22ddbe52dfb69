package capture

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// Family is IPv4 or IPv6.
type Family int

// The families, in the order in which they are written.
const (
	V4 Family = 4
	V6 Family = 6
)

// Our root chains, and the built-in ones they hang from.
const (
	chainOut = "KEREGE_OUT" // from OUTPUT of table nat
	chainIn  = "KEREGE_IN"  // from PREROUTING of table nat
	chainDNS = "KEREGE_DNS" // from OUTPUT of table raw
)

// dnsZone is the conntrack zone in which a captured query is looked up, in its
// original direction: with no zone of its own, one that has the source port of a
// query that somebody else has just sent to the same resolver is taken for that
// one, which was not redirected. Answers need no zone, for they are unambiguous.
const dnsZone = 15053

// Rule is one rule of a generation, spelled as iptables -S lists it.
type Rule struct {
	Family Family
	Chain  string // the root chain whose generation holds it
	Spec   []string
}

func (r Rule) String() string {
	tool := "iptables"
	if r.Family == V6 {
		tool = "ip6tables"
	}
	return fmt.Sprintf("%s -t %s -A %s %s", tool, tableOf(r.Chain), r.Chain, strings.Join(r.Spec, " "))
}

// Rules is what one network namespace should hold, for both families, in order.
// All of c's workloads are taken to be in that namespace. It is pure.
func Rules(c Config) []Rule {
	var out []Rule
	for _, family := range []Family{V4, V6} {
		b := &builder{c: c, family: family}
		b.outbound()
		b.inbound()
		b.zone()
		out = append(out, b.rules...)
	}
	return out
}

type builder struct {
	c      Config
	family Family
	chain  string
	rules  []Rule
}

func (b *builder) add(parts ...[]string) {
	b.rules = append(b.rules, Rule{b.family, b.chain, slices.Concat(parts...)})
}

// guards come first in every generation. A packet in mid-stream looks new to a
// kernel that has only begun to track connections: it is let through, or every
// open session would be redirected and reset.
func (b *builder) guards() {
	b.add(words("-p tcp -m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN"), back)
	for _, ports := range multiports(b.never()) {
		b.add(words("-p tcp"), ports, back)
	}
}

func (b *builder) never() []portRange {
	all := slices.Clone(neverPorts)
	for _, p := range b.c.NeverPorts {
		all = append(all, portRange{p, p})
	}
	for _, s := range b.c.Sessions {
		all = append(all, portRange{s.Local.Port(), s.Local.Port()})
	}
	return all
}

func (b *builder) outbound() {
	b.chain = chainOut
	b.guards()
	for _, s := range b.c.Sessions {
		if peer := s.Peer; b.is(peer.Addr()) {
			b.add(to(netip.PrefixFrom(peer.Addr().Unmap(), peer.Addr().Unmap().BitLen())), words("-p tcp"), dport(peer.Port()), back)
		}
	}
	b.hairpin()
	for _, uid := range sorted(b.c.EnvoyUIDs, b.c.AgentUIDs) {
		b.add(owner(uid), back)
	}
	// Before addresses are let through: a resolver is often on 127.0.0.53, or is
	// the metadata service.
	b.dns()
	for _, p := range b.untouched() {
		b.add(to(p), back)
	}
	for _, w := range b.c.Workloads {
		if !w.down {
			b.workload(w)
		}
	}
}

func (b *builder) untouched() []netip.Prefix {
	all := append([]netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}, neverAddresses...)
	for _, a := range b.c.Servers {
		all = append(all, netip.PrefixFrom(a.Unmap(), a.Unmap().BitLen()))
	}
	return b.only(all)
}

// hairpin sends what one workload's Envoy calls of another workload on the host
// to that one's inbound port: what stays on the host never passes PREROUTING.
// Whose call it is, the users of their Envoys tell. Of an Envoy that is both's
// nobody could tell such a call from the one that brings it to the application.
func (b *builder) hairpin() {
	loop := "127.0.0.0/8"
	if b.family == V6 {
		loop = "::1/128"
	}
	for _, caller := range b.c.Workloads {
		for _, w := range b.c.Workloads {
			if caller.EnvoyUID == 0 || w.EnvoyUID == 0 || caller.EnvoyUID == w.EnvoyUID || w.down {
				continue
			}
			ports := slices.DeleteFunc(w.inboundPorts(b.never()), func(p portRange) bool { return slices.Contains(caller.Ports, p.first) })
			for _, ports := range multiports(ports) {
				b.add(words("! -d "+loop+" -o lo -p tcp"), owner(caller.EnvoyUID), ports, redirect(w.InboundPort))
			}
		}
	}
}

func (b *builder) dnsTaken() bool { return b.c.DNS && !slices.Contains(b.c.NeverPorts, 53) }

func (b *builder) dns() {
	if !b.dnsTaken() {
		return
	}
	port := b.c.dnsPort()
	if b.c.DNSHost {
		b.add(words("-p udp"), dportOf("udp", 53), redirect(port))
		b.add(words("-p tcp"), dport(53), redirect(port))
		return
	}
	for _, w := range b.c.Workloads {
		for _, who := range w.who() {
			for _, not := range w.excluded(who) {
				b.add(words("-p udp"), not, dportOf("udp", 53), back)
				b.add(words("-p tcp"), not, dport(53), back)
			}
			b.add(words("-p udp"), who, dportOf("udp", 53), redirect(port))
			b.add(words("-p tcp"), who, dport(53), redirect(port))
		}
	}
}

// zone gives the queries that dns redirects a conntrack zone of their own.
func (b *builder) zone() {
	b.chain = chainDNS
	if !b.dnsTaken() {
		return
	}
	queries, zone := dportOf("udp", 53), words("-j CT --zone-orig "+strconv.Itoa(dnsZone))
	for _, uid := range sorted(b.c.EnvoyUIDs, b.c.AgentUIDs) {
		b.add(words("-p udp"), owner(uid), queries, back)
	}
	if b.c.DNSHost {
		b.add(words("-p udp"), queries, zone)
		return
	}
	for _, w := range b.c.Workloads {
		for _, who := range w.who() {
			for _, not := range w.excluded(who) {
				b.add(words("-p udp"), not, queries, back)
			}
			b.add(words("-p udp"), who, queries, zone)
		}
	}
}

// workload takes all TCP of one workload, less its exclusions.
func (b *builder) workload(w Workload) {
	if w.OutboundPort == 0 {
		return
	}
	for _, who := range w.who() {
		for _, not := range w.excluded(who) {
			b.add(words("-p tcp"), not, back)
		}
		for _, ports := range multiports(single(w.ExcludeOutbound)) {
			b.add(words("-p tcp"), who, ports, back)
		}
		// A virtual address means nothing without Envoy, so no list excludes it.
		virtual := Virtual4
		if b.family == V6 {
			virtual = Virtual6
		}
		excluded, included := b.only(w.ExcludeAddresses), b.only(w.IncludeAddresses)
		if len(excluded) > 0 || len(w.IncludeAddresses) > 0 {
			b.add(to(virtual), words("-p tcp"), who, redirect(w.OutboundPort))
		}
		for _, p := range excluded {
			b.add(to(p), words("-p tcp"), who, back)
		}
		if len(w.IncludeAddresses) == 0 {
			b.add(words("-p tcp"), who, redirect(w.OutboundPort))
		}
		for _, p := range included {
			b.add(to(p), words("-p tcp"), who, redirect(w.OutboundPort))
		}
	}
}

func (b *builder) inbound() {
	b.chain = chainIn
	b.guards()
	for _, s := range b.c.Sessions {
		if peer := s.Peer; b.is(peer.Addr()) {
			from := netip.PrefixFrom(peer.Addr().Unmap(), peer.Addr().Unmap().BitLen())
			b.add(words("-s "+from.String()+" -p tcp -m tcp --sport "+strconv.Itoa(int(peer.Port()))), back)
		}
	}
	for _, w := range b.c.Workloads {
		if w.down || w.InboundPort == 0 {
			continue
		}
		// Only what is for this host: a host may also forward for others.
		for _, ports := range multiports(w.inboundPorts(b.never())) {
			b.add(words("-p tcp -m addrtype --dst-type LOCAL"), ports, redirect(w.InboundPort))
		}
	}
}

// inboundPorts are the application's ports less what is excluded and never taken.
func (w Workload) inboundPorts(never []portRange) []portRange {
	var out []portRange
	for _, p := range w.Ports {
		taken := slices.ContainsFunc(never, func(r portRange) bool { return r.first <= p && p <= r.last })
		if !taken && !slices.Contains(w.ExcludeInbound, p) && w.InboundPort != 0 {
			out = append(out, portRange{p, p})
		}
	}
	return out
}

// who are the matches that together are the workload; one empty match is a whole namespace.
func (w Workload) who() [][]string {
	switch {
	case w.Netns != "":
		return [][]string{nil}
	case w.Slice != "":
		return [][]string{{"-m", "cgroup", "--path", w.Slice}}
	}
	var out [][]string
	for _, uid := range sorted(w.UIDs) {
		if !slices.Contains(w.ExcludeUIDs, uid) {
			out = append(out, owner(uid))
		}
	}
	return out
}

// excluded are the matches of those in who that are let through. A workload that
// is known by its users has nobody else in it; a rule for one would do nothing, or
// take that user's traffic from another workload.
func (w Workload) excluded(who []string) [][]string {
	if w.Netns == "" && w.Slice == "" {
		return nil
	}
	var out [][]string
	for _, uid := range sorted(w.ExcludeUIDs) {
		out = append(out, slices.Concat(who, owner(uid)))
	}
	return out
}

func (b *builder) is(a netip.Addr) bool { return a.IsValid() && a.Unmap().Is4() == (b.family == V4) }

func (b *builder) only(all []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range all {
		if b.is(p.Addr()) && !slices.Contains(out, p.Masked()) {
			out = append(out, p.Masked())
		}
	}
	slices.SortFunc(out, comparePrefix)
	return out
}
