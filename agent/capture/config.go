package capture

import (
	"cmp"
	"net/netip"
	"slices"
)

// The ranges that virtual addresses of services come from.
var (
	Virtual4 = netip.MustParsePrefix("240.0.0.0/4")
	Virtual6 = netip.MustParsePrefix("fd6b:6572:6567::/48")
)

// DefaultDNSPort is where the agent's resolver listens, on 127.0.0.1 and ::1.
const DefaultDNSPort = 15053

// OutboundPort is where outbound traffic of a host's i-th workload arrives.
func OutboundPort(i int) uint16 { return uint16(15001 + 10*i) }

// InboundPort is where inbound traffic of a host's i-th workload arrives.
func InboundPort(i int) uint16 { return uint16(15006 + 10*i) }

// neverPorts are TCP ports by which a host is reached and run: SSH, Nomad
// (4646-4648), kerege (7401-7402), Consul (8300-8302, 8500-8503, 8600).
var neverPorts = []portRange{{22, 22}, {4646, 4648}, {7401, 7402}, {8300, 8302}, {8500, 8503}, {8600, 8600}}

// neverAddresses are the cloud's metadata services: an identity of the host.
var neverAddresses = []netip.Prefix{netip.MustParsePrefix("169.254.169.254/32"), netip.MustParsePrefix("fd00:ec2::254/128")}

// Config is what is captured on one node. Exclusions add up: nothing replaces
// the built-in ones.
type Config struct {
	Workloads []Workload `json:"workloads"`
	// EnvoyUIDs and AgentUIDs are never captured, or proxies would meet themselves.
	EnvoyUIDs  []uint32 `json:"envoy_uids,omitempty"`
	AgentUIDs  []uint32 `json:"agent_uids,omitempty"`
	NeverPorts []uint16 `json:"never_ports,omitempty"` // TCP, in either direction, besides the built-in ones
	// Servers are the control plane's addresses, never captured.
	Servers  []netip.Addr `json:"servers,omitempty"`
	Sessions []Session    `json:"sessions,omitempty"` // the operator's own SSH sessions
	DNS      bool         `json:"dns"`                // send port 53 of the workloads to DNSPort
	DNSPort  uint16       `json:"dns_port,omitempty"` // 0 is DefaultDNSPort
	DNSHost  bool         `json:"dns_host,omitempty"` // port 53 of the whole host, not only of the workloads
}

// Workload is one captured application. Exactly one of UIDs, Slice and Netns
// says who it is.
type Workload struct {
	Name         string   `json:"name"`
	User         string   `json:"user,omitempty"`  // of UIDs, for people
	UIDs         []uint32 `json:"uids,omitempty"`  // users it runs as; never 0
	Slice        string   `json:"slice,omitempty"` // cgroup v2 path below the mount, as in /proc/PID/cgroup: "web.slice"
	Netns        string   `json:"netns,omitempty"` // path of a network namespace, all of which is the workload
	OutboundPort uint16   `json:"outbound_port"`
	InboundPort  uint16   `json:"inbound_port"`
	EnvoyUID     uint32   `json:"envoy_uid,omitempty"` // of its own Envoy; 0: nobody knows, and others on the host cannot call it
	Ports        []uint16 `json:"ports,omitempty"`     // where the application listens: captured inbound

	ExcludeInbound   []uint16       `json:"exclude_inbound,omitempty"`
	ExcludeOutbound  []uint16       `json:"exclude_outbound,omitempty"`
	ExcludeAddresses []netip.Prefix `json:"exclude_addresses,omitempty"` // destinations dialled directly
	IncludeAddresses []netip.Prefix `json:"include_addresses,omitempty"` // the only destinations captured, besides virtual ones; none: all
	ExcludeUIDs      []uint32       `json:"exclude_uids,omitempty"`
	Bypass           bool           `json:"bypass,omitempty"` // taken out when its Envoy is gone: on_envoy_down = "bypass"

	down bool // its Envoy is gone and Bypass is set: leave its rules out
}

// Session is an SSH connection that must survive.
type Session struct {
	Local netip.AddrPort `json:"local"`
	Peer  netip.AddrPort `json:"peer"`
}

// Stop is a reason why nothing may be applied, with what mends it.
type Stop struct {
	Workload string `json:"workload,omitempty"`
	What     string `json:"what"`
	Mend     string `json:"mend"`
}

func (s Stop) Error() string {
	if s.Workload == "" {
		return s.What + ": " + s.Mend
	}
	return "workload " + s.Workload + ": " + s.What + ": " + s.Mend
}

// namespaces lists the namespaces the config speaks of, the host's ("") first.
// The host's is always there: what was captured in it may have to go.
func (c Config) namespaces() []string {
	names := []string{""}
	for _, w := range c.Workloads {
		if !slices.Contains(names, w.Netns) {
			names = append(names, w.Netns)
		}
	}
	slices.Sort(names)
	return names
}

// in is the part of the config for one namespace.
func (c Config) in(netns string) Config {
	out := c
	out.Workloads = nil
	for _, w := range c.Workloads {
		if w.Netns == netns {
			out.Workloads = append(out.Workloads, w)
		}
	}
	if netns != "" {
		// The agent and the host's own services are not in there.
		out.AgentUIDs, out.Sessions, out.DNSHost = nil, nil, false
	}
	return out
}

// clone shares nothing with c that a caller could change.
func (c Config) clone() Config {
	c.Workloads = slices.Clone(c.Workloads)
	slices.SortFunc(c.Workloads, func(a, b Workload) int { return cmp.Or(cmp.Compare(a.Netns, b.Netns), cmp.Compare(a.Name, b.Name)) })
	return c
}

func (c Config) dnsPort() uint16 { return cmp.Or(c.DNSPort, DefaultDNSPort) }
