package main

import (
	"fmt"
	"slices"
)

// shape is the size of a mesh: P proxies, S services of two instances each, U
// upstreams a proxy. Every proxy calls service 0; D of them, or one in a hundred,
// call 1.
type shape struct{ P, S, U, D int }

// args say the shape to a process of ours.
func (s shape) args(more ...string) []string {
	return slices.Concat([]string{"-p", fmt.Sprint(s.P), "-s", fmt.Sprint(s.S), "-u", fmt.Sprint(s.U), "-d", fmt.Sprint(s.D)}, more)
}

const (
	hot  = 0 // the service that all depend on
	warm = 1 // the service that one in a hundred depends on
)

func (s shape) String() string { return fmt.Sprintf("P=%d S=%d U=%d", s.P, s.S, s.U) }

func serviceName(k int) string { return fmt.Sprintf("svc-%04d", k) }
func proxyName(i int) string   { return fmt.Sprintf("web-%04d", i) }
func nodeName(i int) string    { return fmt.Sprintf("node-%04d", i) }

// fewer is how many proxies call the warm service.
func (s shape) fewer() int {
	if s.D > 0 {
		return min(s.D, s.P)
	}
	return max(1, s.P/100)
}

// dependents of a service that changes.
func (s shape) dependents(service int) int {
	if service == hot {
		return s.P
	}
	return s.fewer()
}

// upstreams of one proxy, by number.
func (s shape) upstreams(i int) []int {
	out := []int{hot}
	if i < s.fewer() {
		out = append(out, warm)
	}
	for j := 0; len(out) < s.U; j++ {
		out = append(out, 2+(i*s.U+j)%(s.S-2))
	}
	return out
}

// instance is where instance n of a service listens; instances 0 and 1 are
// there from the start.
func instance(service, n int) (ip string, port int) {
	return fmt.Sprintf("10.%d.%d.%d", 1+n%200, service/250, 1+service%250), 20000 + n
}
