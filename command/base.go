package command

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/fatih/color"
	"github.com/mattn/go-isatty"
)

// Exit codes, the same for every command.
const (
	exitOK       = 0
	exitError    = 1
	exitFindings = 2 // changes or findings
	exitDegraded = 3 // degraded or unreachable
)

// Command is one subcommand.
type Command struct {
	Name     string // "capture apply"
	Synopsis string // one line, no full stop
	Args     string // "[DIR]"
	Long     string // what it does, and what it never does
	Example  string // one command line that works
	Flags    func(*flag.FlagSet)
	Run      func(*Call) error
}

// group is a word that only has subcommands.
func group(name, synopsis string) Command {
	return Command{
		Name: name, Synopsis: synopsis, Args: "SUBCOMMAND",
		Long:    synopsis + ". See the subcommands below.",
		Example: "kerege " + name + " -help",
		Run: func(c *Call) error {
			if len(c.Args) == 0 {
				return fmt.Errorf("say which: kerege %s -help lists the subcommands", name)
			}
			return noCommand(name + " " + c.Args[0])
		},
	}
}

// Call is one invocation of a command.
type Call struct {
	terminal
	Args []string
	JSON bool
}

type terminal struct {
	in       io.Reader
	out, err io.Writer
	color    bool
	wide     int // columns; 0: unknown
	ctx      context.Context
}

// exit is an error that asks for its own exit code. An empty text prints nothing.
type exit struct {
	code int
	text string
}

func (e exit) Error() string { return e.text }

// findings ends a command whose output already says everything.
func findings() error { return exit{code: exitFindings} }

// degraded ends a command with exit code 3 and a sentence.
func degraded(format string, args ...any) error {
	return exit{code: exitDegraded, text: fmt.Sprintf(format, args...)}
}

// runner makes a Command fit hashicorp/cli.
type runner struct {
	command  Command
	terminal terminal
}

func (r *runner) Synopsis() string { return r.command.Synopsis }

func (r *runner) Help() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n\n", strings.TrimSpace("Usage: kerege "+r.command.Name+" [options] "+r.command.Args))
	fmt.Fprintf(&b, "%s\n\n", indent(strings.TrimSpace(r.command.Long)))
	fmt.Fprintf(&b, "Example:\n\n    $ %s\n\n", r.command.Example)
	fmt.Fprintf(&b, "Options:\n\n")
	flags, _ := r.flags()
	flags.VisitAll(func(f *flag.Flag) {
		name := "-" + f.Name
		if kind, _ := flag.UnquoteUsage(f); kind != "" {
			name += "=<" + kind + ">"
		}
		_, usage := flag.UnquoteUsage(f)
		words := strings.Fields(usage)
		if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "0s" && f.DefValue != "0" {
			words = append(words, "(default "+f.DefValue+")")
		}
		fmt.Fprintf(&b, "  %s\n%s", name, wrapped("      ", words))
	})
	b.WriteString("\nExit codes: 0 ok, 1 error, 2 changes or findings, 3 degraded or unreachable.")
	return b.String()
}

// helpWidth is where the texts of options are broken; those of commands are written so.
const helpWidth = 96

// wrapped is words in lines of at most helpWidth columns, indented.
func wrapped(indent string, words []string) string {
	var b strings.Builder
	line := indent
	for _, word := range words {
		if len(line) > len(indent) && len(line)+1+len(word) > helpWidth {
			b.WriteString(line + "\n")
			line = indent
		}
		if len(line) > len(indent) {
			line += " "
		}
		line += word
	}
	return b.String() + line + "\n"
}

func (r *runner) flags() (*flag.FlagSet, *bool) {
	flags := flag.NewFlagSet(r.command.Name, flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	flags.Usage = func() {}
	asJSON := flags.Bool("json", false, "Print JSON.")
	if r.command.Flags != nil {
		r.command.Flags(flags)
	}
	return flags, asJSON
}

func (r *runner) Run(args []string) int {
	flags, asJSON := r.flags()
	words, err := parse(flags, args)
	if err == nil && len(words) > 0 && r.command.Args == "" {
		err = fmt.Errorf("it takes no argument, and there is %q; see -help", words[0])
	}
	if err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fmt.Fprintln(r.terminal.out, r.Help())
			return exitOK
		}
		r.terminal.fail("kerege "+r.command.Name, nearestFlag(flags, err))
		return exitError
	}
	err = r.command.Run(&Call{terminal: r.terminal, Args: words, JSON: *asJSON})
	var e exit
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &e):
		if e.text != "" {
			r.terminal.fail("kerege "+r.command.Name, err)
		}
		return e.code
	}
	r.terminal.fail("kerege "+r.command.Name, err)
	return exitError
}

// parse takes options before and behind the arguments, which it returns.
func parse(flags *flag.FlagSet, args []string) (words []string, err error) {
	for {
		if err := flags.Parse(args); err != nil {
			return nil, err
		}
		rest := flags.Args()
		if len(rest) == 0 {
			return words, nil
		}
		if used := len(args) - len(rest); used > 0 && args[used-1] == "--" {
			return append(words, rest...), nil
		}
		words, args = append(words, rest[0]), rest[1:]
	}
}

// nearestFlag turns flag's message into ours, with the flag that was perhaps meant.
func nearestFlag(flags *flag.FlagSet, err error) error {
	name, is := strings.CutPrefix(err.Error(), "flag provided but not defined: -")
	if !is {
		return err
	}
	best, distance := "", 3
	flags.VisitAll(func(f *flag.Flag) {
		if d := editDistance(name, f.Name); d < distance {
			best, distance = f.Name, d
		}
	})
	if best == "" {
		return fmt.Errorf("there is no option -%s; see -help", name)
	}
	return fmt.Errorf("there is no option -%s; did you mean -%s?", name, best)
}

func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		last := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := last
			if a[i] != b[j] {
				change++
			}
			last = row[j+1]
			row[j+1] = min(change, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}

// fail prints an error on stderr: what, then indented what to do next.
func (t terminal) fail(who string, err error) {
	head, rest, _ := strings.Cut(err.Error(), "\n")
	paint := color.New(color.FgRed, color.Bold)
	if !t.color {
		paint.DisableColor()
	}
	paint.Fprint(t.err, "Error: ")
	fmt.Fprintf(t.err, "%s: %s\n", who, head)
	if rest != "" {
		fmt.Fprintln(t.err, indent(rest))
	}
}

// paint colours text on a terminal, and leaves it alone elsewhere.
func (t terminal) paint(attribute color.Attribute, text string) string {
	if !t.color {
		return text
	}
	c := color.New(attribute)
	c.EnableColor()
	return c.Sprint(text)
}

// printJSON writes v as indented JSON.
func (c *Call) printJSON(v any) error {
	e := json.NewEncoder(c.out)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("printing JSON: %w", err)
	}
	return nil
}

// listed is a list that is [] in JSON when it is empty.
func listed[T any](all []T) []T {
	if all == nil {
		return []T{}
	}
	return all
}

func indent(text string) string {
	return strings.ReplaceAll("  "+strings.ReplaceAll(text, "\n", "\n  "), "\n  \n", "\n\n")
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && os.Getenv("NO_COLOR") == "" && isatty.IsTerminal(f.Fd())
}
