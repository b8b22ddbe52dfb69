package command

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/fatih/color"

	"github.com/kerege/kerege/api"
)

func statusCommand() Command {
	var s serverFlags
	return Command{
		Name:     "status",
		Synopsis: "The whole mesh on one screen",
		Long: `Shows what is applied, how well each registry can be seen, who is in the mesh,
what is held back and why, and how long the certificates last. Changes nothing.

On a host without a server it shows what kerege agent status does.

Exits 3 when something of it is degraded.`,
		Example: "kerege status",
		Flags:   s.register,
		Run: func(c *Call) error {
			var st api.Status
			if err := s.ask(c, "/v1/status", &st); err != nil {
				return s.instead(c, err)
			}
			if c.JSON {
				if err := c.printJSON(st); err != nil {
					return err
				}
			} else {
				printStatus(c, st)
			}
			if bad := unwell(st); bad {
				return exit{code: exitDegraded}
			}
			return nil
		},
	}
}

func unwell(st api.Status) bool {
	for _, s := range st.Sources {
		if s.State != "ok" {
			return true
		}
	}
	return !st.Ready || outOfCapture(st.Nodes) || st.Frozen != nil || st.Proxies.Nacked > 0 || len(st.Guards) > 0
}

func printStatus(c *Call, st api.Status) {
	var t table
	mode := fmt.Sprintf("mtls %s, default_intention %s, outbound %s", st.MTLS, st.DefaultIntention, st.Outbound)
	if st.MTLS != "strict" || st.DefaultIntention != "deny" || st.Outbound != "registered" {
		mode = c.paint(color.FgYellow, "adopting: "+mode)
	}
	t.add("mesh", st.TrustDomain+"   "+mode)
	if st.TrustDomainDefault {
		t.add("", "the trust domain is the default, for the life of the mesh: no mesh block says one")
	}
	generation := fmt.Sprintf("%d, applied %s from %s", st.Generation.Number, since(st.Generation.Applied), count(st.Generation.Files, "file", "files"))
	if of := st.Generation.Of; of > 0 {
		generation = c.paint(color.FgYellow, fmt.Sprintf("%d, that of %d again since %s", st.Generation.Number, of, since(st.Generation.Applied)))
		if n := len(st.Differs); n > 0 {
			generation += c.paint(color.FgYellow, fmt.Sprintf("; %s from it and %s for kerege apply: kerege plan", differ(n), map[bool]string{true: "waits", false: "wait"}[n == 1]))
		}
	} else if n := len(st.Differs); n > 0 {
		generation += c.paint(color.FgYellow, fmt.Sprintf("; %s from it: kerege plan", differ(n)))
	}
	t.add("generation", generation)
	if f := st.Frozen; f != nil {
		text := "FROZEN " + since(f.Since) + ": no proxy is told of a change before kerege thaw"
		if f.Waiting > 0 {
			text += "; " + waits(f)
		}
		if f.Reason != "" {
			text += " (" + strconv.Quote(f.Reason) + ")"
		}
		t.add("", c.paint(color.FgRed, text))
	}
	t.add("server", fmt.Sprintf("%s, kerege %s", st.Server, st.Version))
	if !st.Ready {
		t.add("", c.paint(color.FgRed, "not ready, waiting for "+strings.Join(st.WaitingFor, ", ")))
	}
	for i, s := range st.Sources {
		label := ""
		if i == 0 {
			label = "sources"
		}
		t.add(label, sourceLine(c, s))
	}
	for i, line := range hostLines(c, st.Nodes) {
		t.add(map[bool]string{true: "hosts"}[i == 0], line)
	}
	t.add("services", fmt.Sprint(st.Services))
	t.add("proxies", proxiesLine(c, st.Proxies))
	t.add("ca", fmt.Sprintf("root until %s, leaves live %s", st.CA.RootExpires.Format("2006-01-02"), ago(time.Duration(st.CA.LeafTTLSeconds*float64(time.Second)))))
	t.fit(c.terminal)
	if text := nobodyIn(st); text != "" {
		fmt.Fprintln(c.out)
		c.say(text, 2)
	}
	printTroubles(c, st)
}

func printTroubles(c *Call, st api.Status) {
	if len(st.Held) > 0 {
		fmt.Fprintf(c.out, "\n%s registered, but kept from callers:\n", count(len(st.Held), "instance", "instances"))
		var t table
		for _, h := range st.Held {
			t.add("  "+plain(h.Service), plain(h.Instance), h.Address, "on "+plain(dash(h.Node)), h.Reason)
		}
		t.fit(c.terminal)
	}
	for _, g := range st.Guards {
		fmt.Fprintln(c.out, c.paint(color.FgYellow, fmt.Sprintf("\nheld by the shrink guard: %s would go from %d to %d instances (%s), until %s",
			plain(g.Service), g.Before, g.After, g.Source, g.Until.Local().Format("15:04:05"))))
	}
	for _, k := range st.Conflicts {
		fmt.Fprintln(c.out)
		c.say(fmt.Sprintf("conflict: %s %s", plain(k.What), strings.Join(k.Where, ", ")), 2)
	}
	if n := len(st.Warnings); n > 0 {
		fmt.Fprintf(c.out, "\n%s of generation %d (kerege plan shows the lines):\n", count(n, "warning", "warnings"), st.Generation.Number)
		for _, w := range st.Warnings {
			c.say("  "+w.Where+"  "+plain(w.Summary), 4)
		}
	}
}

func differ(n int) string {
	if n == 1 {
		return "1 file differs"
	}
	return fmt.Sprintf("%d files differ", n)
}

func sourceLine(c *Call, s api.Source) string {
	state := s.State
	if s.State != "ok" {
		state = c.paint(color.FgRed, s.State)
	}
	line := fmt.Sprintf("%s %s, seen %s ago", s.Name, state, ago(time.Duration(s.AgeSeconds*float64(time.Second))))
	if s.Watches > 0 {
		line += fmt.Sprintf(", %s, %s, %.1f requests/s", count(s.Services, "service", "services"), count(s.Watches, "watch", "watches"), s.RequestsPS)
	}
	if s.Error != "" {
		line += ": " + plain(s.Error)
	}
	return line
}

func proxiesLine(c *Call, p api.ProxyCounts) string {
	line := fmt.Sprintf("%d synced", p.Synced)
	if p.Stale > 0 {
		line += c.paint(color.FgYellow, fmt.Sprintf(", %d stale", p.Stale))
	}
	if p.Nacked > 0 {
		line += c.paint(color.FgRed, fmt.Sprintf(", %d refused an update: kerege proxies", p.Nacked))
	}
	return line
}
