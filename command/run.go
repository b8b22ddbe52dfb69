package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"

	"github.com/hashicorp/cli"
)

// version is set by the linker.
var version = "0.1.0-dev"

// Run carries out one command line and returns the exit code.
func Run(args []string, in io.Reader, out, errOut io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	t := terminal{in: in, out: out, err: errOut, color: isTerminal(out), wide: screen(out), ctx: ctx}
	c := cli.NewCLI("kerege", version)
	c.Args = args
	c.HelpWriter, c.ErrorWriter = out, errOut
	c.HelpFunc = help
	c.Autocomplete = true
	c.HiddenCommands = []string{"capture dial", "capture guard", "dev-guard"} // kerege's own
	c.Commands = map[string]cli.CommandFactory{}
	for _, cmd := range commands() {
		c.Commands[cmd.Name] = func() (cli.Command, error) { return &runner{command: cmd, terminal: t}, nil }
	}
	if len(args) > 0 && args[0] == "help" {
		c.Args = append(slices.Clone(args[1:]), "-help")
		args = c.Args
	}
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") && !known(args[0]) {
		t.fail("kerege", noCommand(args[0]))
		return exitError
	}
	if len(args) == 0 {
		c.ErrorWriter = out // asking for nothing is asking for help
	}
	if len(args) == 1 && (args[0] == "-v" || args[0] == "-version" || args[0] == "--version") {
		c.Args = []string{"version"}
	}
	code, err := c.Run()
	if err != nil {
		t.fail("kerege", err)
		return exitError
	}
	switch {
	case code == cli.RunResultHelp, len(args) == 0:
		return exitOK
	case code == 127: // cli's "no such command", after its help
		return exitError
	}
	return code
}

func known(word string) bool {
	return slices.ContainsFunc(commands(), func(c Command) bool { return c.Name == word })
}

// noCommand says of "sttus", or of "capture plna", what was perhaps meant.
func noCommand(name string) error {
	all, _, sub := strings.Cut(name, " ")
	if !sub {
		all = ""
	}
	best, distance := "", 3
	for _, c := range commands() {
		if d := editDistance(name, c.Name); d < distance && strings.Contains(c.Name, " ") == sub {
			best, distance = c.Name, d
		}
	}
	said := fmt.Sprintf("there is no command %q", name)
	if best != "" {
		said += "; did you mean kerege " + best + "?"
	}
	return errors.New(said + "\n" + strings.Join(strings.Fields("kerege "+all+" -help"), " ") + " lists them.")
}
