package capture

import (
	"fmt"
	"io"
	"strconv"
	"strings"
)

// WriteText prints the plan as a page.
func (p *Plan) WriteText(w io.Writer) error {
	var b strings.Builder
	for _, x := range p.Workloads {
		x.write(&b)
	}
	line := func(label, format string, args ...any) {
		fmt.Fprintf(&b, "%-14s %s\n", label, fmt.Sprintf(format, args...))
	}
	ssh := "ssh :22"
	if p.Operator != nil {
		if port := p.Operator.Local.Port(); port != 22 {
			ssh += fmt.Sprintf(" :%d", port)
		}
		ssh += " and your session " + p.Operator.Peer.String()
	}
	if p.SSH > 0 {
		ssh += fmt.Sprintf(", %s", count(p.SSH, "other open session"))
	}
	line("never touched", "%s; %s", ssh, strings.Join(p.Never, "; "))
	p.writeHost(line)
	if p.Unknown != "" {
		line("not known", "who of the callers is in the mesh, so all count as outside: %s", p.Unknown)
	}
	for _, s := range p.Stops {
		who := ""
		if s.Workload != "" {
			who = "workload " + s.Workload + ": "
		}
		b.WriteString("\nstop: " + who + s.What + "\n      " + s.Mend + "\n")
	}
	passed := 0
	for _, c := range p.Checks {
		if c.OK {
			passed++
		}
	}
	fmt.Fprintf(&b, "%d of %d checks pass.", passed, len(p.Checks))
	switch {
	case len(p.Stops) > 0:
		b.WriteString("  Nothing was changed.")
	case p.Host.Settled:
		b.WriteString("  Nothing to apply.")
	default:
		b.WriteString("  Apply: kerege capture apply    (undoes itself in 60 s unless confirmed)")
	}
	b.WriteString("\n")
	_, err := io.WriteString(w, b.String())
	return err
}

func (p *Plan) writeHost(line func(string, string, ...any)) {
	h := p.Host
	track := fmt.Sprintf("conntrack counts already: %d of %d", h.Tracked, h.TrackMax)
	switch {
	case h.TrackMax == 0:
		track = "conntrack will start counting"
	case !h.Tracking:
		track = fmt.Sprintf("conntrack will start counting: 0 of %d", h.TrackMax)
	}
	if h.Backend != "" {
		line("host", "iptables-%s, %s; %s", h.Backend, count(h.Foreign, "foreign rule"), track)
	}
	if h.Warning != "" {
		line("", "warning: %s", h.Warning)
	}
	families := "v4 and v6"
	if h.Families == 1 {
		families = "v4; IPv6 is off"
	}
	switch {
	case h.Settled && len(p.Workloads) == 0:
	case h.Settled:
		line("change", "nothing: the rules are in place")
	case h.Chains == 0 && h.Jumps == 0 && h.TablesErr == "":
		line("change", "a new generation, by one swap a chain (%s); kerege capture plan -rules shows it", families)
	case h.TablesErr == "":
		line("change", "+ %s, + %s, + %s (%s); kerege capture plan -rules shows them", count(h.Chains, "chain"), count(h.Jumps, "jump"), count(h.Routes, "route"), families)
	}
}

func (x PlannedWorkload) write(b *strings.Builder) {
	label := "workload " + x.Name
	who := x.Who
	if len(x.Ports) > 0 {
		who += ", " + portText(x.Ports)
	}
	if x.FoundBy != "" {
		who = fmt.Sprintf("%-32s found by: %s", who, x.FoundBy)
	}
	fmt.Fprintf(b, "%-14s %s\n", label, who)
	line := func(label, format string, args ...any) {
		fmt.Fprintf(b, "  %-12s %s\n", label, fmt.Sprintf(format, args...))
	}
	if len(x.Ports) > 0 {
		x.writeInbound(line)
	}
	short := x.Who
	if _, id, ok := strings.Cut(x.Who, "("); ok {
		short = strings.TrimSuffix(id, ")")
	}
	open := fmt.Sprintf("Open now: %s, all live on untouched until they close", count(x.Open, "connection"))
	switch x.Open {
	case 0:
		open = "Open now: none"
	case -1:
		open = "What is open lives on untouched until it closes"
	}
	line("outbound", "%s only. %s", short, open)
	if len(x.Outside) > 0 {
		fate := "pass (outbound = \"any\")"
		if x.Outbound == "registered" {
			fate = "refused when they are opened anew (outbound = \"registered\")"
		}
		verb := "destinations are"
		if len(x.Outside) == 1 {
			verb = "destination is"
		}
		line("", "%d %s no mesh service: %s → %s", len(x.Outside), verb, destinations(x.Outside), fate)
	}
	dns := x.DNS
	if dns != "as before" {
		dns += "; *.mesh, and *.service.consul of services in the mesh, answer an address of 240.0.0.0/4, all else as before"
	}
	line("dns", "%s", dns)
	for _, n := range x.Notes {
		line("note", "%s", n)
	}
}

func (x PlannedWorkload) writeInbound(line func(string, string, ...any)) {
	total := 0
	for _, c := range x.Callers {
		total += c.Connections
	}
	if total == 0 {
		line("inbound", "%s → Envoy. Callers now: none", portText(x.Ports))
		return
	}
	out := x.outsiders()
	line("inbound", "%s → Envoy. Callers now: %s from %s, %d of them in the mesh", portText(x.Ports), count(total, "connection"), count(len(x.Callers), "host"), len(x.Callers)-len(out))
	which := strconv.Itoa(len(out))
	if len(out) == len(x.Callers) {
		which = "all " + which
	}
	switch {
	case x.Mode == "strict" && len(out) > 0:
		line("", "strict: %s would be refused: %s", which, names(out))
	case x.Mode == "strict":
		line("", "strict: all go on")
	case x.Mode != "" && len(out) > 0:
		line("", "%s: all go on. (strict would refuse %s: %s)", x.Mode, which, names(out))
	case x.Mode != "":
		line("", "%s: all go on", x.Mode)
	}
}

func portText(ports []uint16) string {
	var out []string
	for _, p := range ports {
		out = append(out, ":"+strconv.Itoa(int(p)))
	}
	return strings.Join(out, " ")
}

func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

const namesMax = 5

func names(callers []Caller) string {
	var out []string
	for i, c := range callers {
		if i == namesMax {
			out = append(out, "…")
			break
		}
		if c.Host != "" {
			out = append(out, c.Host)
		} else {
			out = append(out, c.Addr.String())
		}
	}
	return strings.Join(out, " ")
}

func destinations(all []Destination) string {
	var out []string
	for i, d := range all {
		if i == namesMax {
			out = append(out, "…")
			break
		}
		text := d.Addr.String()
		if d.Host != "" {
			text += " (" + d.Host + ")"
		}
		out = append(out, text)
	}
	return strings.Join(out, ", ")
}
