package capture

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// ahead lists the rules of others that stand before our jump and may take what the
// jump leads to us. Rules that cannot meet it, and targets that let a packet go on
// (as LOG), are left alone: a container runtime has every right to its own.
func (l listing) ahead(h hook, flows []flow) []string {
	var out []string
	for _, rule := range l.chains[h.builtin] {
		if rule == h.jump() {
			return out
		}
		if l.takes(rule, true, flows, nil) {
			out = append(out, rule)
		}
	}
	return nil // no jump: that is another damage
}

// flow is some of the traffic that a chain of ours takes.
type flow struct {
	protocol string
	ports    []portRange // nil: any
	uids     []uint32    // nil: anybody's
	untaken  []netip.Prefix
}

// flows is what a root chain takes, less what no rule ahead of it can spoil.
func (b *builder) flows(root string) []flow {
	var out []flow
	dns := []portRange{{53, 53}}
	if b.c.DNSHost && b.dnsTaken() && root != chainIn {
		out = append(out, flow{protocol: "udp", ports: dns}, flow{protocol: "tcp", ports: dns})
	}
	for _, w := range b.c.Workloads {
		if w.down {
			continue
		}
		if ports := w.inboundPorts(b.never()); root == chainIn && len(ports) > 0 {
			out = append(out, flow{protocol: "tcp", ports: ports})
		}
		uids := w.UIDs
		if w.Netns != "" || w.Slice != "" {
			uids = nil
		}
		if root != chainIn && b.dnsTaken() {
			out = append(out, flow{protocol: "udp", ports: dns, uids: uids})
		}
		if root == chainOut && w.OutboundPort != 0 {
			out = append(out, flow{protocol: "tcp", uids: uids, untaken: append(b.untouched(), b.only(w.ExcludeAddresses)...)})
		}
	}
	return out
}

// goesOn are targets after which a packet meets the next rule.
var goesOn = words("LOG NFLOG ULOG MARK CONNMARK CONNSECMARK SECMARK CT TRACE TOS DSCP TTL HL CLASSIFY SET AUDIT TCPMSS IDLETIMER RATEEST LED CHECKSUM TEE")

// takes tells whether a rule may take some of the flows: itself, or by the chain to
// which it leads. What is not understood may.
func (l listing) takes(rule string, builtin bool, flows []flow, on []string) bool {
	m := parseMatch(rule)
	flows = slices.DeleteFunc(slices.Clone(flows), func(f flow) bool { return !m.meets(f) })
	switch {
	case len(flows) == 0 || m.target == "" || slices.Contains(goesOn, m.target):
		return false
	case m.target == "RETURN":
		return builtin // elsewhere it leads back to where it came from
	case m.leaves || !l.has(m.target) || slices.Contains(on, m.target):
		return true
	}
	return slices.ContainsFunc(l.chains[m.target], func(r string) bool { return l.takes(r, false, flows, append(on, m.target)) })
}

// match is what of a rule can be told apart from our traffic.
type match struct {
	protocol string      // "": any
	ports    []portRange // nil: any
	uids     []uidRange  // nil: any
	dst      netip.Prefix
	target   string
	leaves   bool // by -g: who returns does not come back
}

type uidRange struct{ first, last uint64 }

func parseMatch(rule string) (m match) {
	f := strings.Fields(rule)
	for i := 0; i+1 < len(f); i++ {
		not, value := i > 0 && f[i-1] == "!", f[i+1]
		switch f[i] {
		case "-j", "-g":
			m.target, m.leaves = value, f[i] == "-g"
			return m // what follows are the target's own words
		case "-p":
			if !not && value != "all" {
				m.protocol = value
			}
		case "-d":
			if p, err := netip.ParsePrefix(value); err == nil && !not {
				m.dst = p
			}
		case "--dport", "--dports":
			if !not {
				m.ports = parsePorts(value)
			}
		case "--uid-owner":
			first, last, _ := strings.Cut(value+"-"+value, "-")
			last, _, _ = strings.Cut(last, "-")
			a, err1 := strconv.ParseUint(first, 10, 32)
			z, err2 := strconv.ParseUint(last, 10, 32)
			switch {
			case err1 != nil || err2 != nil:
			case not: // all but those
				if a > 0 {
					m.uids = append(m.uids, uidRange{0, a - 1})
				}
				m.uids = append(m.uids, uidRange{z + 1, 1 << 32})
			default:
				m.uids = append(m.uids, uidRange{a, z})
			}
		}
	}
	return m
}

// parsePorts reads "80,8000:8010"; nil, which is any, where it cannot.
func parsePorts(list string) []portRange {
	var out []portRange
	for _, part := range strings.Split(list, ",") {
		first, last, ranged := strings.Cut(part, ":")
		if !ranged {
			last = first
		}
		a, err1 := strconv.ParseUint(first, 10, 16)
		z, err2 := strconv.ParseUint(last, 10, 16)
		if err1 != nil || err2 != nil {
			return nil
		}
		out = append(out, portRange{uint16(a), uint16(z)})
	}
	return out
}

// meets tells whether the match and a flow may have a packet in common.
func (m match) meets(f flow) bool {
	if m.protocol != "" && m.protocol != f.protocol {
		return false
	}
	if m.ports != nil && f.ports != nil && !slices.ContainsFunc(m.ports, func(a portRange) bool {
		return slices.ContainsFunc(f.ports, func(b portRange) bool { return a.first <= b.last && b.first <= a.last })
	}) {
		return false
	}
	if m.uids != nil && f.uids != nil && !slices.ContainsFunc(m.uids, func(r uidRange) bool {
		return slices.ContainsFunc(f.uids, func(uid uint32) bool { return r.first <= uint64(uid) && uint64(uid) <= r.last })
	}) {
		return false
	}
	return !m.dst.IsValid() || !slices.ContainsFunc(f.untaken, func(p netip.Prefix) bool { return p.Bits() <= m.dst.Bits() && p.Contains(m.dst.Addr()) })
}

// spelled is a rule as its owner would type it.
func (t *target) spelled(h hook, rule string) string {
	return strings.Replace(Rule{t.family, h.root, nil}.String(), "-A "+h.root+" ", "-A "+h.builtin+" "+rule, 1)
}

// stolen lists the rules ahead of all of a target's jumps, spelled.
func (t *target) stolen(c Config) (out []string) {
	b := &builder{c: c, family: t.family}
	for _, h := range hooksOf(t.table) {
		for _, rule := range t.now.ahead(h, b.flows(h.root)) {
			out = append(out, t.spelled(h, rule))
		}
	}
	return out
}

// lead puts the jumps first again, each in one transaction: no call meets the
// tables without it.
func (t *target) lead(c Config) error {
	b := &builder{c: c, family: t.family}
	for _, h := range hooksOf(t.table) {
		if len(t.now.ahead(h, b.flows(h.root))) == 0 {
			continue
		}
		if err := t.tables.First(h.builtin, "-j", h.root); err != nil {
			return fmt.Errorf("putting the jump to %s first: %w", h.root, err)
		}
	}
	return nil
}

// A jump is put first again leadMost times within leadWithin. A tool that puts its
// rule back more often than that is meant to be first: to go on would be a fight
// that makes the way of a call a matter of luck, and hides it. What stays is said.
const (
	leadMost   = 3
	leadWithin = time.Hour
)

// lead puts the jumps of a namespace first again where rules of others have got
// before them, unless it has done so too often.
func (m *Manager) lead(netns string, targets []*target, c Config) (changed bool, err error) {
	var left, work []string
	var todo []*target
	for _, t := range targets {
		stolen := t.stolen(c)
		if len(stolen) == 0 {
			continue
		}
		table := fmt.Sprintf("%s %d %s", netns, t.family, t.table)
		m.led[table] = slices.DeleteFunc(m.led[table], func(at time.Time) bool { return time.Since(at) > leadWithin })
		if len(m.led[table]) >= leadMost {
			left = append(left, stolen...)
			continue
		}
		m.led[table] = append(m.led[table], time.Now())
		todo, work = append(todo, t), append(work, stolen...)
	}
	if len(work) > 0 {
		m.o.Log.Warn("rules of another program took the workloads' traffic; kerege's are first again", "netns", netns, "rules", work)
	}
	if len(left) > 0 && !slices.Equal(left, m.stolen[netns]) {
		m.o.Log.Error("rules of another program take the workloads' traffic, and it puts them back: they are left", "netns", netns, "rules", left)
	}
	m.stolen[netns] = left
	if len(left) == 0 {
		delete(m.stolen, netns)
	}
	return len(todo) > 0, each(todo, func(t *target) error { return t.lead(c) })
}

// overtaken says what is wrong where rules stand ahead, and what mends it.
func overtaken(rules []string) string {
	return fmt.Sprintf("a rule of another program stands before kerege's and may take the workload's traffic: %s: remove it or let that program put it behind (what is meant to go around the proxy belongs into exclude_addresses or exclude_outbound); kerege goes first again by itself, at most %d times an hour", strings.Join(rules, "; "), leadMost)
}
