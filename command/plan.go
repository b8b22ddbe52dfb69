package command

import (
	"flag"
	"fmt"
	"strings"

	"github.com/kerege/kerege/api"
)

func planCommand() Command {
	var s serverFlags
	var names bool
	return Command{
		Name:     "plan",
		Synopsis: "What `apply` would change: calls, proxies, connections",
		Long: `Reads the server's mesh files as they are now, compiles all of it, and shows what
applying them would change: which blocks say what else, which caller gains or loses
which destination, whose open connections are cut, which proxies are sent what, and which
listeners would drain. Nothing is applied. While the mesh is frozen it is held against
what the proxies have, so that what is applied already and waits is in it, too.

Exits 0 when nothing changes, 1 when the files cannot be applied, 2 when something would change.`,
		Example: "kerege plan",
		Flags: func(f *flag.FlagSet) {
			s.register(f)
			f.BoolVar(&names, "resources", false, "Name each resource that a proxy is sent, as Envoy calls it.")
		},
		Run: func(c *Call) error {
			var p api.Plan
			if err := s.post(c, "/v1/plan", struct{}{}, &p); err != nil {
				return err
			}
			if c.JSON {
				if err := c.printJSON(p); err != nil {
					return err
				}
			} else {
				printPlan(c, p, names)
			}
			switch {
			case len(p.Diagnostics) > 0:
				return exit{code: exitError}
			case p.Changes:
				return findings()
			}
			return nil
		},
	}
}

func printDiagnostics(c *Call, all []api.Diagnostic) {
	for _, d := range all {
		fmt.Fprintln(c.err, strings.TrimRight(d.Text, "\n"))
		fmt.Fprintln(c.err)
	}
}
