package command

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/kerege/kerege/config"
)

func validateCommand() Command {
	var settings string
	return Command{
		Name:     "validate",
		Synopsis: "Check mesh files, or settings, without a server",
		Args:     "[DIR|FILE...]",
		Long: `Reads the files as one transaction and checks all of it, as the server would: syntax,
names, types, sums, expressions, and what one block says of another. Needs no server
and no network. Left out, the directory is /etc/kerege.d/mesh.

Settings files are known by what is in them: server.hcl and agent.hcl are checked as
the server and the agent would at their start, a server's with the mesh files that they
name. Where nothing in a file tells, say -settings.

What the registries know is not asked: services that no file speaks of are listed, and
kerege plan, on a server, holds them against the registries.

Exits 1 on an error, 2 when there are only warnings, or blocks that are not supported
yet: those are right, and kerege apply refuses them.`,
		Example: "kerege validate /etc/kerege.d/mesh",
		Flags: func(f *flag.FlagSet) {
			f.StringVar(&settings, "settings", "", "The files are settings of this `process`: server or agent. Left out: known by what is in them.")
		},
		Run: func(c *Call) error {
			paths, err := orDefaultMesh(c.Args, "validate")
			if err != nil {
				return err
			}
			switch settings {
			case "":
				return validate(c, paths)
			case "server":
				return reportServer(c, paths)
			case "agent":
				return reportAgent(c, paths)
			}
			return fmt.Errorf("-settings is server or agent, not %q", settings)
		},
	}
}

// validate finds out what the files are, and checks them as that.
func validate(c *Call, paths []string) error {
	kinds, diags := config.Kinds(paths...)
	if len(diags) > 0 {
		return report(c, diags, "")
	}
	if len(kinds) == 0 {
		return fmt.Errorf("there is no file to check in %s\nLooked for files that end in .hcl or .json and are not hidden; directories inside are not looked into.", strings.Join(paths, ", "))
	}
	if slices.Contains(slices.Collect(maps.Values(kinds)), config.KindMesh) {
		return reportMesh(c, paths) // settings among mesh files are a mistake, which it names
	}
	var server, agent []string
	for _, name := range slices.Sorted(maps.Keys(kinds)) {
		switch kinds[name] {
		case config.KindServer:
			server = append(server, name)
		case config.KindAgent:
			agent = append(agent, name)
		case config.KindNone:
			return fmt.Errorf("%s holds what a server and an agent both know\nSay whose it is: kerege validate -settings server, or agent", name)
		}
	}
	if len(server) == 0 {
		return reportAgent(c, agent)
	}
	if len(agent) == 0 {
		return reportServer(c, server)
	}
	cfg, diags := config.LoadServer(server...)
	_, more := config.LoadAgent(agent...)
	valid, found := named(cfg)
	return report(c, slices.Concat(diags, more, found), fmt.Sprintf("Valid: settings of a server in %s, of an agent in %s.%s", strings.Join(server, ", "), strings.Join(agent, ", "), valid))
}

func reportServer(c *Call, paths []string) error {
	cfg, diags := config.LoadServer(paths...)
	valid, more := named(cfg)
	return report(c, append(diags, more...), "Valid: settings of a server in "+strings.Join(paths, ", ")+"."+valid)
}

// named checks the mesh files that a server's settings name. A default directory
// that is not here is on the server, and said to be unchecked.
func named(cfg *config.Server) (valid string, diags config.Diagnostics) {
	if cfg == nil {
		return "", nil
	}
	if _, err := os.Stat(defaultMesh); err != nil && slices.Equal(cfg.MeshPaths, []string{defaultMesh}) {
		return "\nNo mesh files were checked: " + defaultMesh + ", where the server reads them, is not here.", nil
	}
	m, diags := config.Load(cfg.MeshPaths...)
	if m == nil {
		return "", diags
	}
	slips, _ := config.Slips(m)
	return "\nMesh files: " + contents(m), append(diags, slips...)
}

// contents counts what is in mesh files.
func contents(m *config.Mesh) string {
	return fmt.Sprintf("%s, %s, %s, %s in %s.", count(len(m.Services), "service", "services"), count(len(m.Routes), "route", "routes"),
		count(len(m.Intentions), "intention", "intentions"), count(len(m.Instances), "instance", "instances"), count(len(m.Sources), "file", "files"))
}

func reportAgent(c *Call, paths []string) error {
	_, diags := config.LoadAgent(paths...)
	return report(c, diags, "Valid: settings of an agent in "+strings.Join(paths, ", ")+".")
}

func reportMesh(c *Call, paths []string) error {
	m, diags := config.Load(paths...)
	if m == nil {
		return report(c, diags, "")
	}
	valid := "Valid: " + contents(m)
	slips, unknown := config.Slips(m)
	diags = append(diags, slips...)
	if n := len(unknown); n > 0 {
		names := make([]string, 0, n)
		for _, name := range unknown[:min(n, 12)] {
			names = append(names, string(name))
		}
		more := ""
		if n > 12 {
			more = fmt.Sprintf(" and %d more", n-12)
		}
		valid += fmt.Sprintf("\nNo file here has a block of %s%s: right where a registry has them, which kerege plan tells.", strings.Join(names, ", "), more)
	}
	if later := len(m.Unsupported); later > 0 { // right, and refused by apply until it is supported
		for _, d := range m.Unsupported {
			d.Severity = config.Warning
			diags = append(diags, d)
		}
		valid = fmt.Sprintf("Valid, but kerege apply refuses %s that %s not supported yet.", count(later, "place", "places"), map[bool]string{true: "is", false: "are"}[later == 1])
	}
	return report(c, diags, valid)
}

// report prints findings, and what is valid in spite of them.
func report(c *Call, diags config.Diagnostics, valid string) error {
	errs := len(diags.Errors())
	if c.JSON {
		if diags == nil {
			diags = config.Diagnostics{}
		}
		if err := c.printJSON(diags); err != nil {
			return err
		}
	} else {
		if err := diags.WriteText(c.err, c.color); err != nil {
			return err
		}
		if errs > 0 {
			fmt.Fprintf(c.err, "\n%s.\n", count(errs, "error", "errors"))
		} else {
			if len(diags) > 0 {
				fmt.Fprintf(c.err, "\n%s.\n", count(len(diags), "warning", "warnings"))
			}
			fmt.Fprintln(c.out, valid)
		}
	}
	switch {
	case errs > 0:
		return exit{code: exitError}
	case len(diags) > 0:
		return findings()
	}
	return nil
}
