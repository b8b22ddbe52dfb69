package command

import (
	"fmt"

	"github.com/kerege/kerege/api"
)

func applyCommand() Command {
	var s serverFlags
	return Command{
		Name:     "apply",
		Synopsis: "Make the mesh files live, all of them or none",
		Long: `Has the server read its mesh files, compile all of them, and make them live as the
next generation. With one error in them nothing is applied, and what runs goes on.
A SIGHUP to the server does the same. See first what changes: kerege plan.`,
		Example: "kerege apply",
		Flags:   s.register,
		Run: func(c *Call) error {
			var a api.Applied
			if err := s.post(c, "/v1/apply", struct{}{}, &a); err != nil {
				return err
			}
			if c.JSON {
				if err := c.printJSON(a); err != nil {
					return err
				}
			}
			if len(a.Diagnostics) > 0 {
				if !c.JSON {
					printDiagnostics(c, a.Diagnostics)
					fmt.Fprintf(c.err, "%s: nothing was applied. Generation %d goes on.\n", count(len(a.Diagnostics), "error", "errors"), a.Previous)
				}
				return exit{code: exitError}
			}
			if c.JSON {
				return nil
			}
			printDiagnostics(c, a.Warnings)
			if a.Generation == a.Previous {
				fmt.Fprintf(c.out, "Nothing changed: the files are what generation %d is.\n", a.Generation)
				return nil
			}
			fmt.Fprintf(c.out, "generation %d (was %d). Acknowledged by %d of %d proxies in %.1f s.\n", a.Generation, a.Previous, a.Acknowledged, a.Proxies, a.Seconds)
			return nil
		},
	}
}
