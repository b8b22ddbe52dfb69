package command

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hashicorp/cli"
)

// groups orders the top of the help by what one wants to do.
var groups = []struct {
	title    string
	commands []string
}{
	{"Run", []string{"server", "agent", "envoy", "dev"}},
	{"Bring a host in", []string{"token", "join", "leave", "wait", "capture"}},
	{"Configure", []string{"validate", "fmt", "plan", "apply", "rollback", "history", "freeze", "thaw"}},
	{"Look", []string{"status", "services", "proxies", "intentions", "explain", "ca"}},
}

// help is what `kerege` alone prints.
func help(all map[string]cli.CommandFactory) string {
	var b strings.Builder
	b.WriteString("Usage: kerege COMMAND [options] [args]\n\n  A service mesh for Consul, Nomad and plain VMs.\n")
	listed := map[string]bool{}
	line := func(name string) {
		factory, ok := all[name]
		if !ok {
			return
		}
		listed[name] = true
		if cmd, err := factory(); err == nil {
			fmt.Fprintf(&b, "    %-12s %s\n", name, cmd.Synopsis())
		}
	}
	for _, g := range groups {
		fmt.Fprintf(&b, "\n  %s\n", g.title)
		for _, name := range g.commands {
			line(name)
		}
	}
	var rest []string
	for name := range all {
		if !listed[name] && !strings.Contains(name, " ") {
			rest = append(rest, name)
		}
	}
	slices.Sort(rest)
	if len(rest) > 0 {
		b.WriteString("\n  Other\n")
		for _, name := range rest {
			line(name)
		}
	}
	b.WriteString("\n  `kerege COMMAND -help` says more of each. Start with: kerege dev\n")
	return b.String()
}
