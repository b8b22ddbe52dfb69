package command

import (
	"fmt"
	"strings"

	"github.com/fatih/color"

	"github.com/kerege/kerege/api"
)

func intentionsCommand() Command {
	var s serverFlags
	return Command{
		Name:     "intentions",
		Synopsis: "Who may call whom, with file and line",
		Long:     "Lists every allow and deny in force, with the line of HCL that says it. Any deny that matches wins.",
		Example:  "kerege intentions",
		Flags:    s.register,
		Run: func(c *Call) error {
			var all []api.Intention
			if err := s.ask(c, "/v1/intentions", &all); err != nil {
				return err
			}
			if c.JSON {
				return c.printJSON(listed(all))
			}
			if len(all) == 0 {
				fmt.Fprintln(c.out, "No intention is in force: every call meets default_intention (kerege status).")
				return nil
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
			t.print(c.out)
			return nil
		},
	}
}
