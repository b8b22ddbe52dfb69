package capture

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
)

// Known is what the mesh knows and the host does not; every field may be left out.
type Known struct {
	FoundBy  map[string]string           // workload → "consul + listening socket"
	Mode     map[string]string           // workload → permissive | strict | disabled
	InMesh   func(netip.Addr) bool       // is the host at this address in the mesh
	HostName func(netip.Addr) string     // "" if it has none
	Service  func(netip.AddrPort) string // the mesh's service at this address; "" if none
	Outbound string                      // any | registered: what calls of no service meet
	Unknown  string                      // why InMesh, HostName and Service know nothing; "": they do
	Accept   int                         // callers whose refusal is accepted: -accept-refusals
	Operator *Session                    // the session in which this is asked
}

// Plan is what Apply would do, and what that would mean now.
type Plan struct {
	Workloads []PlannedWorkload `json:"workloads"`
	Never     []string          `json:"never"`
	Operator  *Session          `json:"operator,omitempty"`
	SSH       int               `json:"ssh"` // other open sessions
	Host      PlannedHost       `json:"host"`
	Rules     []string          `json:"rules"`
	Checks    []Check           `json:"checks"`
	Stops     []Stop            `json:"stops,omitempty"`   // not empty: exit code 2
	Unknown   string            `json:"unknown,omitempty"` // why it is not known who of the hosts is in the mesh
}

// PlannedWorkload is one workload with what is open now.
type PlannedWorkload struct {
	Name     string        `json:"name"`
	Who      string        `json:"who"`
	FoundBy  string        `json:"found_by,omitempty"`
	Mode     string        `json:"mode,omitempty"`
	Ports    []uint16      `json:"ports,omitempty"`
	Callers  []Caller      `json:"callers,omitempty"` // sessions to the ports, by host
	Open     int           `json:"open"`              // its own calls; -1: not known
	Outside  []Destination `json:"outside,omitempty"` // of those, to no service of the mesh
	Outbound string        `json:"outbound,omitempty"`
	DNS      string        `json:"dns"`
	Notes    []string      `json:"notes,omitempty"`
}

// Caller is a host that has connections to a workload's ports.
type Caller struct {
	Addr        netip.Addr `json:"addr"`
	Host        string     `json:"host,omitempty"`
	Connections int        `json:"connections"`
	InMesh      bool       `json:"in_mesh"`
}

// Destination is where a workload's own connections go.
type Destination struct {
	Addr        netip.AddrPort `json:"addr"`
	Host        string         `json:"host,omitempty"`
	Connections int            `json:"connections"`
}

// PlannedHost is the state of the host's packet filter.
type PlannedHost struct {
	Backend   string `json:"backend"`
	Foreign   int    `json:"foreign"`
	Warning   string `json:"warning,omitempty"`
	Tracked   int    `json:"tracked"` // connections
	TrackMax  int    `json:"track_max"`
	Tracking  bool   `json:"tracking"` // already, before us
	Chains    int    `json:"chains"`   // to be made, in one family
	Jumps     int    `json:"jumps"`
	Routes    int    `json:"routes"`
	Settled   bool   `json:"settled"` // nothing to do
	Families  int    `json:"families"`
	TablesErr string `json:"tables_error,omitempty"`
}

// Check is one thing that was looked at.
type Check struct {
	Name string `json:"name"`
	OK   bool   `json:"ok"`
}

// Plan looks at the host and writes nothing.
func (m *Manager) Plan(ctx context.Context, c Config, known Known) (*Plan, error) {
	c = c.clone()
	p := &Plan{Never: neverText(c), Operator: known.Operator, Stops: c.Check(), Unknown: known.Unknown}
	p.check("workloads", len(p.Stops) == 0)
	p.Rules = c.RuleText()
	for _, w := range c.Workloads {
		planned, err := planWorkload(c, w, known)
		if err != nil {
			return nil, err
		}
		p.Workloads = append(p.Workloads, planned)
	}
	p.callers(known)
	sessions, err := SSHSessions("")
	if err != nil {
		return nil, err
	}
	for _, s := range sessions {
		if known.Operator == nil || s.Peer != known.Operator.Peer {
			p.SSH++
		}
	}
	err = m.locked(func(s *state) error { p.host(ctx, m, s, c); return nil })
	return p, err
}

// RuleText is every rule as the command that would add it.
func (c Config) RuleText() []string {
	var out []string
	for _, netns := range c.namespaces() {
		part, prefix := c.in(netns), ""
		if len(part.Workloads) == 0 && !part.DNSHost {
			continue
		}
		if netns != "" {
			prefix = "nsenter --net=" + netns + " "
		}
		for _, r := range Rules(part) {
			out = append(out, prefix+r.String())
		}
	}
	return out
}

func (p *Plan) check(name string, ok bool) { p.Checks = append(p.Checks, Check{name, ok}) }

// callers stops a strict workload from refusing those who call it now.
func (p *Plan) callers(known Known) {
	ok := true
	for _, w := range p.Workloads {
		out := w.outsiders()
		if w.Mode == "strict" && len(out) > known.Accept {
			ok = false
			p.Stops = append(p.Stops, Stop{w.Name, fmt.Sprintf("mtls is strict, and %d of its callers are not in the mesh and would be refused: %s", len(out), names(out)),
				fmt.Sprintf("bring them in first, or let plaintext in (service %q { mtls = \"permissive\" }), or accept it: -accept-refusals %d", w.Name, len(out))})
		}
	}
	p.check("callers", ok)
}

func (w PlannedWorkload) outsiders() []Caller {
	var out []Caller
	for _, c := range w.Callers {
		if !c.InMesh {
			out = append(out, c)
		}
	}
	return out
}

func (p *Plan) host(ctx context.Context, m *Manager, s *state, c Config) {
	h := &p.Host
	h.Tracked, h.TrackMax = number("/proc/sys/net/netfilter/nf_conntrack_count"), number("/proc/sys/net/netfilter/nf_conntrack_max")
	h.Tracking = h.Tracked > 0
	stop, full := trackingFull(h.Tracked, h.TrackMax)
	if full {
		p.Stops = append(p.Stops, stop)
	}
	p.check("conntrack", !full)
	h.Settled = true
	for _, netns := range c.namespaces() {
		part := c.in(netns)
		if len(part.Workloads) == 0 && !part.DNSHost {
			continue
		}
		targets, _, err := m.targets(ctx, s, netns, Rules(part))
		if err != nil {
			h.TablesErr, h.Settled = err.Error(), false
			p.Stops = append(p.Stops, Stop{"", err.Error(), "nothing was touched"})
			continue
		}
		h.Families = len(targets) / len(ownTables)
		for _, t := range targets {
			settled := t.settled()
			h.Settled = h.Settled && settled
			if t.family != V4 || settled {
				continue
			}
			for _, hook := range hooksOf(t.table) {
				if hook.live(t.now) == "" {
					h.Chains += 2
				}
				if hook.jumps(t.now) == 0 {
					h.Jumps++
				}
			}
			if t.table == nat && natHooks[0].live(t.now) == "" {
				h.Routes++
			}
		}
	}
	p.check("tables", h.TablesErr == "")
	b := m.backends[""]
	for _, netns := range c.namespaces() {
		if b.Name == "" {
			b = m.backends[netns]
		}
	}
	h.Backend, h.Foreign, h.Warning = b.Name, b.Foreign, b.Warning
}

func trackingFull(tracked, most int) (Stop, bool) {
	if most <= 0 || tracked*100 <= most*80 {
		return Stop{}, false
	}
	return Stop{"", fmt.Sprintf("connection tracking is %d %% full (%d of %d): with capture every connection is tracked", tracked*100/most, tracked, most),
		fmt.Sprintf("sysctl net.netfilter.nf_conntrack_max=%d", 4*most)}, true
}

func number(path string) int {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0
	}
	return n
}

func planWorkload(c Config, w Workload, known Known) (PlannedWorkload, error) {
	out := PlannedWorkload{Name: w.Name, Who: w.describe(), FoundBy: known.FoundBy[w.Name], Mode: known.Mode[w.Name], Ports: w.Ports, Outbound: known.Outbound}
	switch {
	case !c.DNS:
		out.DNS = "as before"
	case c.DNSHost:
		out.DNS = "port 53 of the whole host"
	default:
		out.DNS = "port 53 of " + w.short() + " only"
	}
	var all []socket
	if err := InNamespace(w.Netns, func() (err error) { all, err = sockets(); return err }); err != nil {
		return out, err
	}
	callers, calls := map[netip.Addr]int{}, map[netip.AddrPort]int{}
	held := map[uint16]bool{}
	for _, s := range all {
		inbound := slices.Contains(w.Ports, s.local.Port())
		held[s.local.Port()] = held[s.local.Port()] || s.state == listen
		switch {
		case s.state != established && s.state != synSent:
		case inbound && (s.peer.Addr().IsLoopback() || s.peer.Addr() == s.local.Addr()):
			// From this host itself: that is not captured.
		case inbound:
			callers[s.peer.Addr()]++
		case (w.Netns != "" || slices.Contains(w.UIDs, s.uid)) && w.Slice == "" && !s.peer.Addr().IsLoopback() && !slices.Contains(c.EnvoyUIDs, s.uid):
			calls[s.peer]++
			out.Open++
		}
	}
	if w.Slice != "" {
		out.Open = -1
	}
	for a, n := range callers {
		out.Callers = append(out.Callers, Caller{a, ask(known.HostName, a), n, known.InMesh != nil && known.InMesh(a)})
	}
	for a, n := range calls {
		if ask(known.Service, a) == "" {
			out.Outside = append(out.Outside, Destination{a, ask(known.HostName, a.Addr()), n})
		}
	}
	slices.SortFunc(out.Callers, func(a, b Caller) int { return a.Addr.Compare(b.Addr) })
	slices.SortFunc(out.Outside, func(a, b Destination) int { return a.Addr.Compare(b.Addr) })
	for _, port := range w.Ports {
		if !held[port] {
			out.Notes = append(out.Notes, fmt.Sprintf("nothing listens on :%d now", port))
		}
	}
	return out, nil
}

// Peers lists the hosts that have connections to the workloads' ports, and where
// the workloads' own connections go: whom to ask the mesh about before Plan.
func Peers(c Config) (hosts []netip.Addr, destinations []netip.AddrPort, err error) {
	for _, w := range c.Workloads {
		now, err := planWorkload(c, w, Known{})
		if err != nil {
			return nil, nil, err
		}
		for _, caller := range now.Callers {
			hosts = append(hosts, caller.Addr)
		}
		for _, d := range now.Outside {
			destinations = append(destinations, d.Addr)
		}
	}
	slices.SortFunc(hosts, netip.Addr.Compare)
	slices.SortFunc(destinations, netip.AddrPort.Compare)
	return slices.Compact(hosts), slices.Compact(destinations), nil
}

func ask[K any](f func(K) string, k K) string {
	if f == nil {
		return ""
	}
	return f(k)
}

func (w Workload) short() string {
	switch {
	case w.Netns != "":
		return "network namespace " + w.Netns
	case w.Slice != "":
		return "slice " + w.Slice
	}
	var ids []string
	for _, uid := range sorted(w.UIDs) {
		ids = append(ids, strconv.FormatUint(uint64(uid), 10))
	}
	return "uid " + strings.Join(ids, ", ")
}

func (w Workload) describe() string {
	if len(w.UIDs) == 0 {
		return w.short()
	}
	name := cmp.Or(w.User, userName(w.UIDs[0]))
	if _, err := strconv.ParseUint(name, 10, 32); err == nil {
		return w.short() // a user without a name
	}
	return fmt.Sprintf("%s (%s)", name, w.short())
}

// neverText is what is never taken, for people.
func neverText(c Config) []string {
	out := []string{"consul 8300-8302 8500-8503 8600", "nomad 4646-4648", "kerege 7401-7402"}
	for _, p := range c.NeverPorts {
		out = append(out, ":"+strconv.Itoa(int(p)))
	}
	for _, a := range c.Servers {
		out = append(out, "server "+a.String())
	}
	return append(out, "169.254.169.254", "loopback", "dhcp", "ntp")
}
