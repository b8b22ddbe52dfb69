package command

import (
	"flag"
	"fmt"
	"strings"

	"github.com/fatih/color"

	"github.com/kerege/kerege/api"
)

func intentionsCommand() Command {
	var s serverFlags
	var applied bool
	return Command{
		Name:     "intentions",
		Synopsis: "Who may call whom, with file and line",
		Long: `Lists every allow and deny in force, with the line of HCL that says it. Any deny that
matches wins. While the mesh is frozen it lists those that the proxies have.`,
		Example: "kerege intentions",
		Flags: func(f *flag.FlagSet) {
			s.register(f)
			f.BoolVar(&applied, "applied", false, "While frozen: those that are applied, which a thaw brings.")
		},
		Run: func(c *Call) error {
			var all []api.Intention
			path := "/v1/intentions"
			if applied {
				path += "?applied=true"
			}
			if err := s.ask(c, path, &all); err != nil {
				return err
			}
			if c.JSON {
				return c.printJSON(listed(all))
			}
			printIntentions(c, all)
			return s.frozenLine(c, func(f *api.Frozen) string { return frozenAnswer(f, applied) })
		},
	}
}

func printIntentions(c *Call, all []api.Intention) {
	if len(all) == 0 {
		fmt.Fprintln(c.out, "No intention is in force: every call meets default_intention (kerege status).")
		return
	}
	var t table
	t.add("destination", "", "callers", "what", "where")
	for _, i := range all {
		action := c.paint(color.FgGreen, i.Action)
		if i.Action == "deny" {
			action = c.paint(color.FgRed, i.Action)
		}
		from := strings.Join(i.From, ", ")
		if len(i.Except) > 0 {
			from += " but not " + strings.Join(i.Except, ", ")
		}
		t.add(i.Destination, action, from, i.What, i.Where)
	}
	t.fit(c.terminal)
}
