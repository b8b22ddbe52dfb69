package command

import (
	"fmt"

	"github.com/kerege/kerege/config"
)

func validateCommand() Command {
	return Command{
		Name:     "validate",
		Synopsis: "Check mesh files without a server",
		Args:     "[DIR|FILE...]",
		Long: `Reads the files as one transaction and checks all of it, as the server would: syntax,
names, types, sums, expressions, and what one block says of another. Needs no server
and no network. Left out, the directory is /etc/kerege.d/mesh.

Exits 1 on an error, 2 when there are only warnings, or blocks that are not supported
yet: those are right, and kerege apply refuses them.`,
		Example: "kerege validate /etc/kerege.d/mesh",
		Run: func(c *Call) error {
			paths := c.Args
			if len(paths) == 0 {
				paths = []string{"/etc/kerege.d/mesh"}
			}
			m, diags := config.Load(paths...)
			later := 0
			if m != nil {
				for _, d := range m.Unsupported { // right, and refused by apply until it is supported
					d.Severity = config.Warning
					diags = append(diags, d)
					later++
				}
			}
			if c.JSON {
				if diags == nil {
					diags = config.Diagnostics{}
				}
				if err := c.printJSON(diags); err != nil {
					return err
				}
			} else if err := diags.WriteText(c.err, c.color); err != nil {
				return err
			}
			switch {
			case m == nil || diags.HasErrors():
				if !c.JSON {
					fmt.Fprintf(c.err, "\n%s.\n", count(len(diags.Errors()), "error", "errors"))
				}
				return exit{code: exitError}
			case len(diags) > 0:
				if !c.JSON && later > 0 {
					fmt.Fprintf(c.out, "Valid, but kerege apply refuses %s that %s not supported yet.\n", count(later, "place", "places"), map[bool]string{true: "is", false: "are"}[later == 1])
				}
				return findings()
			}
			if !c.JSON {
				fmt.Fprintf(c.out, "Valid: %s, %s, %s, %s in %s.\n", count(len(m.Services), "service", "services"), count(len(m.Routes), "route", "routes"),
					count(len(m.Intentions), "intention", "intentions"), count(len(m.Instances), "instance", "instances"), count(len(m.Sources), "file", "files"))
			}
			return nil
		},
	}
}
