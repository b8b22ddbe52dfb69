package capture

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

var back = []string{"-j", "RETURN"}

func words(s string) []string { return strings.Fields(s) }

func redirect(port uint16) []string {
	return []string{"-j", "REDIRECT", "--to-ports", strconv.Itoa(int(port))}
}

func owner(uid uint32) []string {
	return []string{"-m", "owner", "--uid-owner", strconv.FormatUint(uint64(uid), 10)}
}

func dport(port uint16) []string { return dportOf("tcp", port) }

func dportOf(protocol string, port uint16) []string {
	return []string{"-m", protocol, "--dport", strconv.Itoa(int(port))}
}

// to matches a destination; nothing for all of them, as iptables lists it.
func to(p netip.Prefix) []string {
	if p.Bits() == 0 {
		return nil
	}
	return []string{"-d", p.String()}
}

type portRange struct{ first, last uint16 }

func single(ports []uint16) []portRange {
	var out []portRange
	for _, p := range ports {
		out = append(out, portRange{p, p})
	}
	return out
}

// multiports spells ports as few -m multiport matches as possible: one takes 15
// numbers, and a range is two.
func multiports(ports []portRange) [][]string {
	ports = slices.Clone(ports)
	slices.SortFunc(ports, func(a, b portRange) int { return cmp.Or(cmp.Compare(a.first, b.first), cmp.Compare(a.last, b.last)) })
	var merged []portRange
	for _, p := range ports {
		if n := len(merged); n > 0 && int(p.first) <= int(merged[n-1].last)+1 {
			merged[n-1].last = max(merged[n-1].last, p.last)
			continue
		}
		merged = append(merged, p)
	}
	var out [][]string
	var list []string
	used := 0
	flush := func() {
		if len(list) > 0 {
			out = append(out, []string{"-m", "multiport", "--dports", strings.Join(list, ",")})
		}
		list, used = nil, 0
	}
	for _, p := range merged {
		text, size := strconv.Itoa(int(p.first)), 1
		if p.last != p.first {
			text, size = fmt.Sprintf("%d:%d", p.first, p.last), 2
		}
		if used+size > 15 {
			flush()
		}
		list, used = append(list, text), used+size
	}
	flush()
	return out
}

func sorted(lists ...[]uint32) []uint32 {
	all := slices.Concat(lists...)
	slices.Sort(all)
	return slices.Compact(all)
}

func comparePrefix(a, b netip.Prefix) int {
	return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Bits(), b.Bits()))
}
