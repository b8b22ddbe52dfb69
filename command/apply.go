package command

import (
	"fmt"
	"strings"

	"github.com/fatih/color"

	"github.com/kerege/kerege/api"
)

func applyCommand() Command {
	var s serverFlags
	return Command{
		Name:     "apply",
		Synopsis: "Make the mesh files live, all of them or none",
		Long: `Has the server read its mesh files, compile all of them, and make them live as the
next generation. With one error in them nothing is applied, and what runs goes on.
A SIGHUP to the server does the same. See first what changes: kerege plan.

Exits 1 when nothing was applied, 2 when a proxy refused what it was sent.`,
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
			if n := len(a.Warnings); n > 0 {
				fmt.Fprintf(c.err, "%s (kerege status lists what still holds):\n", count(n, "warning", "warnings"))
				printDiagnostics(c, a.Warnings)
			}
			if a.Generation == a.Previous {
				fmt.Fprintf(c.out, "Nothing changed: the files are what generation %d is.\n", a.Generation)
				return nil
			}
			c.say(fmt.Sprintf("generation %d (was %d). %s", a.Generation, a.Previous, answered(a)), 2)
			printCut(c, a)
			if a.Previous > 0 {
				fmt.Fprintf(c.out, "Back: kerege rollback %d\n", a.Previous)
			}
			if a.Refused > 0 {
				return findings()
			}
			return nil
		},
	}
}

// printCut says whose open connections an update has cut.
func printCut(c *Call, a api.Applied) {
	if words := cutWords(a.Cut); words != "" {
		c.say(c.paint(color.FgRed, "O"+words[1:]+"."), 2)
	}
}

// answered says what the proxies made of a generation.
func answered(a api.Applied) string {
	if a.Frozen {
		return "Frozen: it is sent to no proxy before kerege thaw."
	}
	text := fmt.Sprintf("Acknowledged by %d of %s in %s.", a.Acknowledged, count(a.Proxies, "proxy", "proxies"), took(a.Seconds))
	var others []string
	if a.Refused > 0 {
		others = append(others, fmt.Sprintf("%d refused an update", a.Refused))
	}
	if rest := a.Proxies - a.Acknowledged - a.Refused; rest > 0 {
		others = append(others, fmt.Sprintf("%d %s not answered", rest, map[bool]string{true: "has", false: "have"}[rest == 1]))
	}
	if len(others) > 0 {
		text += " " + strings.Join(others, ", ") + ": kerege proxies"
	}
	return text
}

// took is how long something took: "84 ms", "1.2 s".
func took(seconds float64) string {
	if seconds < 0.9995 {
		return fmt.Sprintf("%.0f ms", max(1, seconds*1000))
	}
	return fmt.Sprintf("%.1f s", seconds)
}
