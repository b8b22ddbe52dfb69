package command

import (
	"flag"
	"fmt"
)

func capturePlanCommand() Command {
	var a agentFlags
	var accept int
	var rules bool
	return Command{
		Name:     "capture plan",
		Synopsis: "What capture would do to this host, and to whom",
		Long: `Looks at the host and says what kerege capture apply would do: which programs and ports,
who calls them now and who of them would be refused, what is open, where DNS goes, what
is never touched. Writes nothing.

Exits 0 when there is nothing to do, 2 when there is, or when something stops it.`,
		Example: "kerege capture plan",
		Flags: func(f *flag.FlagSet) {
			a.register(f)
			f.IntVar(&accept, "accept-refusals", 0, "The `number` of callers outside the mesh that strict services may refuse.")
			f.BoolVar(&rules, "rules", false, "Print the rules themselves, as commands.")
		},
		Run: func(c *Call) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			p, err := client.CapturePlan(c.ctx, sshConnection(), accept)
			if err != nil {
				return a.explain(err)
			}
			switch {
			case c.JSON:
				err = c.printJSON(p)
			case rules:
				for _, r := range p.Rules {
					fmt.Fprintln(c.out, r)
				}
			default:
				err = p.WriteText(c.out)
			}
			if err == nil && (!p.Host.Settled || len(p.Stops) > 0) {
				return findings()
			}
			return err
		},
	}
}
