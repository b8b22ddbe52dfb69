package command

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/fatih/color"

	"github.com/kerege/kerege/api"
)

func nodeListCommand() Command {
	var s serverFlags
	return Command{
		Name:     "node list",
		Synopsis: "Every host that joined: in, away, left, evicted or banned, and why",
		Long: `Lists the hosts that joined this mesh, since when they are what they are, and what of
them is in. A host that was sent away is listed with the reason and the command that
brings it back. Changes nothing.`,
		Example: "kerege node list",
		Flags:   s.register,
		Run: func(c *Call) error {
			var st api.Status
			if err := s.ask(c, "/v1/status", &st); err != nil {
				return err
			}
			if c.JSON {
				return c.printJSON(listed(st.Nodes))
			}
			if len(st.Nodes) == 0 {
				fmt.Fprintln(c.out, "No host has joined yet: kerege token create -node NAME")
				return nil
			}
			t := table{}
			t.add("NODE", "STATE", "SINCE", "VERSION", "WHAT")
			for _, n := range st.Nodes {
				t.add(plain(n.Name), hostState(c, n), day(n.Since), plain(dash(n.Version)), hostWhat(n))
			}
			t.print(c.out)
			return nil
		},
	}
}

func hostState(c *Call, n api.Node) string {
	switch {
	case n.State == "in" && !n.Connected:
		return c.paint(color.FgYellow, "in, away")
	case n.State == "evicted" || n.State == "banned":
		return c.paint(color.FgYellow, n.State)
	}
	return n.State
}

// hostWhat is what of a host is in, and what is to be said of it.
func hostWhat(n api.Node) string {
	var parts []string
	if len(n.Services) > 0 {
		parts = append(parts, plain(strings.Join(n.Services, " ")))
	}
	for _, member := range slices.Sorted(maps.Keys(n.Outside)) {
		parts = append(parts, plain(member+" is out: "+n.Outside[member]))
	}
	if back := bringsBack(n); back != "" {
		parts = append(parts, back)
	}
	return strings.Join(parts, "; ")
}

// bringsBack says why a host was sent away, or that it left, and how it comes back.
func bringsBack(n api.Node) string {
	again := fmt.Sprintf("kerege token create -node %s, then kerege join there", plain(n.Name))
	switch n.State {
	case "evicted":
		return "back with " + again
	case "banned":
		return fmt.Sprintf("%s; back with kerege node unban %s, %s", plain(n.Reason), plain(n.Name), again)
	case "left":
		return "back with " + again
	}
	return ""
}

func day(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04")
}

// hostLines are the lines of status about hosts: the first counts those that are in.
func hostLines(c *Call, nodes []api.Node) []string {
	by := map[string][]string{}
	var away, outside []string
	for _, n := range nodes {
		name := plain(n.Name)
		switch n.State {
		case "in":
			name += " (" + plain(strings.Join(n.Services, " ")) + ")"
			if !n.Connected {
				name += " away"
			}
		case "evicted", "banned":
			away = append(away, c.paint(color.FgYellow, fmt.Sprintf("%s was %s at %s: %s", name, n.State, day(n.Since), bringsBack(n))))
		}
		by[n.State] = append(by[n.State], name)
		for _, member := range slices.Sorted(maps.Keys(n.Outside)) {
			outside = append(outside, c.paint(color.FgRed, plain(member+" on "+n.Name+" is out: "+n.Outside[member])))
		}
	}
	lines := []string{count(len(by["in"]), "host", "hosts") + " in the mesh" + names(by["in"])}
	for _, x := range []struct{ state, text string }{{"joined", "joined, nothing of it is in"}, {"away", "away, nothing of it is in"}, {"left", "left"}} {
		if n := len(by[x.state]); n > 0 {
			lines = append(lines, fmt.Sprintf("%d %s%s", n, x.text, names(by[x.state])))
		}
	}
	return slices.Concat(lines, away, outside)
}

// names is a short list; a long one is for kerege node list.
func names(all []string) string {
	switch {
	case len(all) == 0:
		return ""
	case len(all) > 8:
		return ": kerege node list"
	}
	return ": " + strings.Join(all, ", ")
}

// nobodyIn says what is so where no host is in; "": one is.
func nobodyIn(st api.Status) string {
	var away []string
	others := false
	for _, n := range st.Nodes {
		switch n.State {
		case "in":
			return ""
		case "evicted", "banned":
			away = append(away, plain(n.Name))
		case "joined", "away":
			others = true
		}
	}
	ttl := ago(time.Duration(st.CA.LeafTTLSeconds * float64(time.Second)))
	switch {
	case len(away) > 0:
		return fmt.Sprintf("No host is in the mesh. What was captured on %s is captured still, and calls among hosts that were sent away go on until their certificates end, in %s at most. To end it, there: kerege leave -force", strings.Join(away, ", "), ttl)
	case others:
		return "No host is in the mesh, so none is called by mTLS. Bring one in, there: kerege capture plan, then kerege capture apply"
	}
	return "Nothing is captured, no traffic is touched. Bring a host in: kerege token create -node NAME"
}

// outOfCapture tells whether a host has lost the capture of something that was in.
func outOfCapture(nodes []api.Node) bool {
	return slices.ContainsFunc(nodes, func(n api.Node) bool { return len(n.Outside) > 0 })
}

// plaintext is the state of an instance that callers get without mTLS.
func plaintext(i api.Instance) string {
	return strings.TrimSuffix("plaintext: "+plain(i.Why), ": ")
}
