package command

import (
	"fmt"
	"slices"
	"strings"

	"github.com/fatih/color"

	"github.com/kerege/kerege/api"
)

func servicesCommand() Command {
	var s serverFlags
	return Command{
		Name:     "services",
		Synopsis: "Services, their instances, and what is held back",
		Args:     "[NAME...]",
		Long: `Lists the services of the mesh: from which registry each instance comes, how
healthy it is, whether it is in the mesh, and why callers do not get it where they
do not. With names, only those.`,
		Example: "kerege services api",
		Flags:   s.register,
		Run: func(c *Call) error {
			var all []api.Service
			if err := s.ask(c, "/v1/services", &all); err != nil {
				return err
			}
			if len(c.Args) > 0 {
				unknown := slices.DeleteFunc(slices.Clone(c.Args), func(name string) bool {
					return slices.ContainsFunc(all, func(v api.Service) bool { return v.Name == name })
				})
				if len(unknown) > 0 {
					return fmt.Errorf("no registry knows a service %s\n`kerege services` lists all that are known.", strings.Join(unknown, ", "))
				}
				all = slices.DeleteFunc(all, func(v api.Service) bool { return !slices.Contains(c.Args, v.Name) })
			}
			if c.JSON {
				return c.printJSON(listed(all))
			}
			if len(all) == 0 {
				fmt.Fprintln(c.out, "No registry and no file knows a service yet.")
			}
			for _, v := range all {
				printService(c, v)
			}
			return s.frozenLine(c, func(f *api.Frozen) string {
				return frozenSince(f) + ": this is what is registered and applied now; " + waits(f) + " for kerege thaw before the proxies hear of it."
			})
		},
	}
}

func printService(c *Call, v api.Service) {
	var ports []string
	for _, p := range v.Ports {
		text := fmt.Sprintf(":%d", p.Number)
		if p.Name != "" {
			text = p.Name + text
		}
		ports = append(ports, fmt.Sprintf("%s %s %s", text, p.Protocol, p.MTLS))
	}
	name := plain(v.Name)
	if c.color {
		name = c.paint(color.Bold, name)
	}
	fmt.Fprintf(c.out, "%s   %s   %s   default %s\n", name, strings.Join(ports, ", "), v.VIP4, v.Default)
	if len(v.Callers) > 0 {
		fmt.Fprintf(c.out, "  may be called by %s\n", strings.Join(v.Callers, ", "))
	}
	var t table
	for _, i := range v.Instances {
		state := "in"
		switch {
		case i.Held != "":
			state = c.paint(color.FgYellow, "held: "+plain(i.Held))
		case !i.In:
			state = c.paint(color.FgYellow, plaintext(i))
		}
		subsets := ""
		if len(i.Subsets) > 0 {
			subsets = "." + strings.Join(i.Subsets, " .")
		}
		t.add("  "+i.Address, plain(dash(i.Node)), i.Source, i.Health, subsets, state)
	}
	t.fit(c.terminal)
	for _, w := range v.Warnings {
		c.say(c.paint(color.FgYellow, "  warning: "+plain(w)), 4)
	}
	fmt.Fprintln(c.out)
}
