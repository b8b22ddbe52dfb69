package command

import (
	"flag"
	"fmt"
	"strconv"
	"strings"

	"github.com/fatih/color"

	"github.com/kerege/kerege/api"
)

func rollbackCommand() Command {
	var s serverFlags
	var dry, names bool
	return Command{
		Name:     "rollback",
		Synopsis: "Make an earlier generation of the mesh files live again",
		Args:     "[N]",
		Long: `Shows what going back to generation N would change, as kerege plan does, and then does
it: the mesh files as they were applied then are live again, under a number of their own.
Left out, N is the generation before; a second rollback goes back further. It needs no
registry, and no file but the server's own.

The files on disk are not touched. They wait: no restart of the server makes them live,
only kerege apply does. kerege history lists the generations that are kept.

Exits 1 when nothing was changed, 2 when a proxy refused what it was sent, or, with
-dry-run, when something would change.`,
		Example: "kerege rollback 6",
		Flags: func(f *flag.FlagSet) {
			s.register(f)
			f.BoolVar(&dry, "dry-run", false, "Show what would change, and change nothing.")
			f.BoolVar(&names, "resources", false, "Name each resource that a proxy is sent, as Envoy calls it.")
		},
		Run: func(c *Call) error {
			n := 0
			switch {
			case len(c.Args) > 1:
				return fmt.Errorf("one generation, or none for the one before; not %s", strings.Join(c.Args, " "))
			case len(c.Args) == 1:
				var err error
				if n, err = strconv.Atoi(c.Args[0]); err != nil || n < 1 {
					return fmt.Errorf("a generation is a number, not %q; kerege history lists them", c.Args[0])
				}
			}
			return rollback(c, &s, n, dry, names)
		},
	}
}

func rollback(c *Call, s *serverFlags, n int, dry, names bool) error {
	var known api.Generations
	if err := s.ask(c, "/v1/generations", &known); err != nil {
		return err
	}
	if n == 0 {
		if n = known.Before; n == 0 {
			return fmt.Errorf("no generation from before %d is kept; kerege history lists those that are", known.Current)
		}
	}
	var p api.Plan
	if err := s.post(c, "/v1/plan", api.PlanRequest{Generation: n}, &p); err != nil {
		return err
	}
	if dry && c.JSON {
		if err := c.printJSON(p); err != nil {
			return err
		}
	}
	if !c.JSON {
		printPlanOf(c, p, planWords{nothing: fmt.Sprintf("it is what generation %d is", p.Generation), then: dryWords(dry, n), names: names})
	}
	switch {
	case len(p.Diagnostics) > 0:
		return exit{code: exitError}
	case dry && p.Changes:
		return findings()
	case dry:
		return nil
	}
	var a api.Applied
	if err := s.post(c, "/v1/rollback", api.RollbackRequest{Generation: n}, &a); err != nil {
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
		}
		return exit{code: exitError}
	}
	if !c.JSON && a.Generation != a.Previous {
		fmt.Fprintln(c.out)
		c.say(fmt.Sprintf("generation %d: that of %d again (was %d). %s", a.Generation, n, a.Previous, answered(a)), 2)
		printCut(c, a)
		fmt.Fprintln(c.out, c.paint(color.FgYellow, "The files on disk wait until they are applied: kerege plan, kerege apply"))
	}
	if a.Refused > 0 {
		return findings()
	}
	return nil
}

func dryWords(dry bool, n int) string {
	if dry {
		return fmt.Sprintf("Roll back: kerege rollback %d", n)
	}
	return ""
}

func historyCommand() Command {
	var s serverFlags
	return Command{
		Name:     "history",
		Synopsis: "The generations of the mesh files that can be gone back to",
		Long: `Lists the applied generations that the server keeps, the newest first: when each was
made live, of how many files it is, and which one it is again, after a rollback. The last
30 are kept. Changes nothing. Going back: kerege rollback N`,
		Example: "kerege history",
		Flags:   s.register,
		Run: func(c *Call) error {
			var all api.Generations
			if err := s.ask(c, "/v1/generations", &all); err != nil {
				return err
			}
			if c.JSON {
				return c.printJSON(all)
			}
			var t table
			t.add("", "GENERATION", "APPLIED", "FILES", "")
			for _, p := range all.Kept {
				sign, of := "", ""
				if p.Number == all.Current {
					sign = "*"
				}
				if p.Of > 0 {
					of = fmt.Sprintf("that of %d again", p.Of)
				}
				t.add(sign, fmt.Sprint(p.Number), since(p.Applied), fmt.Sprint(p.Files), of)
			}
			t.print(c.out)
			if all.Before > 0 {
				fmt.Fprintf(c.out, "\nBack to %d: kerege rollback\n", all.Before)
			}
			return nil
		},
	}
}
