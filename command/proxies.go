package command

import (
	"fmt"
	"slices"
	"time"

	"github.com/fatih/color"

	"github.com/kerege/kerege/api"
)

func proxiesCommand() Command {
	var s serverFlags
	return Command{
		Name:     "proxies",
		Synopsis: "Every proxy: synced, stale or refused, with Envoy's words",
		Long: `Lists every proxy with how it stands: synced, stale and for how long, or an
update that its Envoy refused, with Envoy's own words and the line of HCL that it
came from. What was sent is counted from when the proxy connected last: one that comes
back says what it has, and is sent only the rest. While the mesh is frozen, synced is with
what was so when it froze.

Exits 2 when a proxy refused an update.`,
		Example: "kerege proxies",
		Flags:   s.register,
		Run: func(c *Call) error {
			var all []api.Proxy
			if err := s.ask(c, "/v1/proxies", &all); err != nil {
				return err
			}
			if c.JSON {
				if err := c.printJSON(listed(all)); err != nil {
					return err
				}
			} else {
				printProxies(c, all)
				if err := s.frozenLine(c, syncedWith); err != nil {
					return err
				}
			}
			if slices.ContainsFunc(all, func(p api.Proxy) bool { return p.State == "nacked" }) {
				return findings()
			}
			return nil
		},
	}
}

// syncedWith says what a proxy that is synced has while it is frozen.
func syncedWith(f *api.Frozen) string {
	if f.Unknown {
		return frozenSince(f) + ", and this server was started again since: it answers no proxy before kerege thaw, and they go on with what is on their hosts' disks."
	}
	return frozenSince(f) + ": synced is with what was so then; " + waits(f) + " for kerege thaw."
}

func printProxies(c *Call, all []api.Proxy) {
	if len(all) == 0 {
		fmt.Fprintln(c.out, "No proxy has connected yet.")
		return
	}
	var t table
	t.add("proxy", "state", "resources", "lag", "connected", "sent since then")
	for _, p := range all {
		resources, lag := 0, 0.0
		for _, k := range p.Types {
			resources += k.Resources
			lag = max(lag, k.LagSeconds)
		}
		state := p.State
		switch p.State {
		case "nacked":
			state = c.paint(color.FgRed, "refused")
		case "stale":
			state = c.paint(color.FgYellow, "stale")
		}
		connected := "away"
		if p.Connected {
			connected = since(p.Since)
		}
		t.add(p.ID, state, fmt.Sprint(resources), ago(time.Duration(lag*float64(time.Second))), connected, count(int(p.Messages), "message", "messages")+", "+size(p.Bytes))
	}
	t.fit(c.terminal)
	for _, p := range all {
		for _, k := range p.Types {
			if k.Nack != "" {
				fmt.Fprintln(c.out)
				c.say(fmt.Sprintf("%s refused %s: %s", p.ID, k.Type, plain(k.Nack)), 2)
				if k.Cause != "" {
					fmt.Fprintf(c.out, "  from %s\n", k.Cause)
				}
			}
		}
		for _, problem := range p.Problems {
			fmt.Fprintln(c.out)
			c.say(p.ID+": "+plain(problem), 2)
		}
	}
}

func size(n uint64) string {
	if n < 10<<10 {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%d KiB", n>>10)
}
