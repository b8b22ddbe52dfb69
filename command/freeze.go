package command

import (
	"flag"
	"fmt"

	"github.com/kerege/kerege/api"
)

func freezeCommand() Command {
	var s serverFlags
	var reason string
	return Command{
		Name:     "freeze",
		Synopsis: "Tell no proxy of any change until thaw",
		Long: `From its answer on no connected proxy is sent anything that has changed: no files, no
instances that come or go, no roots. Calls go on with what proxies have. Certificates
are renewed, and files can be applied and rolled back: they wait. A proxy that is new is
given what was so when it froze. One change does not wait: a host that is evicted, banned
or replaced by another (kerege node evict, ban) is out of the mesh at once for every proxy.

It holds over a restart of the server, which then answers no proxy until thaw, since what
it knows is not what they have: agents give them what is on their disks. kerege status
says so, and exits 3.`,
		Example: `kerege freeze -reason "incident 214"`,
		Flags: func(f *flag.FlagSet) {
			s.register(f)
			f.StringVar(&reason, "reason", "", "A `line` for who looks at kerege status, of 500 bytes at most.")
		},
		Run: func(c *Call) error {
			var f api.Frozen
			if err := s.post(c, "/v1/freeze", api.FreezeRequest{Reason: reason}, &f); err != nil {
				return err
			}
			if c.JSON {
				return c.printJSON(f)
			}
			fmt.Fprintf(c.out, "Frozen since %s. No proxy is told of a change before: kerege thaw\n", f.Since.Local().Format("15:04:05"))
			return nil
		},
	}
}

func thawCommand() Command {
	var s serverFlags
	return Command{
		Name:     "thaw",
		Synopsis: "End a freeze: bring every proxy in step with what is so now",
		Long: `Sends every proxy what has changed since kerege freeze, and waits a while for their
answers. What the mesh files would change beside that: kerege plan, before.

Exits 1 when nothing is frozen, 2 when a proxy refused what it was sent.`,
		Example: "kerege thaw",
		Flags:   s.register,
		Run: func(c *Call) error {
			var a api.Applied
			if err := s.post(c, "/v1/thaw", struct{}{}, &a); err != nil {
				return err
			}
			if c.JSON {
				if err := c.printJSON(a); err != nil {
					return err
				}
			} else {
				c.say(fmt.Sprintf("Thawed, with generation %d. %s", a.Generation, answered(a)), 2)
				printCut(c, a)
			}
			if a.Refused > 0 {
				return findings()
			}
			return nil
		},
	}
}
