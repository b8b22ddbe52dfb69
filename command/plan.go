package command

import (
	"fmt"
	"strings"

	"github.com/fatih/color"

	"github.com/kerege/kerege/api"
)

func planCommand() Command {
	var s serverFlags
	return Command{
		Name:     "plan",
		Synopsis: "What `apply` would change: calls, proxies, connections",
		Long: `Reads the server's mesh files as they are now, compiles all of it, and shows what
applying them would change: which caller gains or loses which destination, which
proxies are sent what, and which listeners would drain. Nothing is applied.

Exits 0 when nothing changes, 1 when the files cannot be applied, 2 when something would change.`,
		Example: "kerege plan",
		Flags:   s.register,
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
				printPlan(c, p)
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

// planWords is what differs between the pages of apply and of a rollback.
type planWords struct {
	nothing string // why nothing changes
	then    string // what to type next; "" nothing
}

func printPlan(c *Call, p api.Plan) {
	printPlanOf(c, p, planWords{fmt.Sprintf("the files are what generation %d is", p.Generation), "Apply: kerege apply"})
}

func printPlanOf(c *Call, p api.Plan, words planWords) {
	printDiagnostics(c, p.Diagnostics)
	printDiagnostics(c, p.Warnings)
	if len(p.Diagnostics) > 0 {
		fmt.Fprintf(c.err, "%s: nothing can be applied. Generation %d goes on.\n", count(len(p.Diagnostics), "error", "errors"), p.Generation)
		return
	}
	if !p.Changes {
		fmt.Fprintf(c.out, "Nothing changes: %s.\n", words.nothing)
		return
	}
	if len(p.Files) > 0 {
		fmt.Fprintf(c.out, "Changed since generation %d: %s\n\n", p.Generation, strings.Join(p.Files, ", "))
	}
	if len(p.Calls) == 0 {
		fmt.Fprintln(c.out, "No caller gains or loses a destination.")
	}
	var t table
	for _, call := range p.Calls {
		sign := c.paint(color.FgGreen, "+")
		if call.Then == "refused" {
			sign = c.paint(color.FgRed, "-")
		}
		t.add(sign, call.From+" → "+call.To, call.Now+" → "+call.Then+openWords(call), c.paint(color.Faint, call.Where))
	}
	t.print(c.out)
	printProxyChanges(c, p.Proxies)
	if words.then != "" {
		fmt.Fprintln(c.out, "\n"+words.then)
	}
}

// openWords say what becomes of what a caller has open and may not open any more.
func openWords(call api.CallChange) string {
	what := "open ones"
	if call.Then != "refused" {
		what = "open ones beyond that"
	}
	switch call.Open {
	case "cut":
		return "; " + what + " are cut"
	case "finish":
		return "; " + what + " finish"
	}
	return ""
}

func printProxyChanges(c *Call, all []api.ProxyChange) {
	if len(all) == 0 {
		fmt.Fprintln(c.out, "\nNo proxy is sent anything.")
		return
	}
	drains := 0
	fmt.Fprintf(c.out, "\n%s %s sent something:\n", count(len(all), "proxy", "proxies"), map[bool]string{true: "is", false: "are"}[len(all) == 1])
	var t table
	for i, p := range all {
		drains += len(p.Drains)
		if i == 20 {
			t.add("  …", fmt.Sprintf("and %d more (-json)", len(all)-i))
			break
		}
		what := strings.Join(p.Changed, ", ")
		if len(p.Removed) > 0 {
			what += "  removed: " + strings.Join(p.Removed, ", ")
		}
		t.add("  "+p.Proxy, what)
		for _, d := range p.Drains {
			t.add("", c.paint(color.FgRed, "drains "+d))
		}
	}
	t.print(c.out)
	if drains == 0 {
		fmt.Fprintln(c.out, "0 listeners drain, 0 connections cut.")
		return
	}
	fmt.Fprintln(c.out, c.paint(color.FgRed, count(drains, "listener drains", "listeners drain")+": connections on them are closed within the drain time."))
}
