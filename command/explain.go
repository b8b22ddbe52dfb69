package command

import (
	"flag"
	"fmt"
	"strings"

	"github.com/fatih/color"

	"github.com/kerege/kerege/api"
)

// headerFlags collects -header name=value.
type headerFlags map[string]string

func (h headerFlags) String() string { return "" }

func (h headerFlags) Set(s string) error {
	name, value, ok := strings.Cut(s, "=")
	if !ok {
		return fmt.Errorf("a header is written name=value, not %q", s)
	}
	h[strings.ToLower(name)] = value
	return nil
}

func explainCommand() Command {
	var s serverFlags
	req := api.ExplainRequest{Headers: map[string]string{}}
	return Command{
		Name:     "explain",
		Synopsis: "What would become of one call, each step with its line of HCL",
		Long: `Follows one call through what is applied now: the virtual address, the rule of the
route and why it matched, the split, the instances, both identities and the
decision, each with the file and line that says so. Nothing is sent.

Exits 2 when the call would be refused.`,
		Example: "kerege explain -from web -to api -method GET -path /v1/items",
		Flags: func(f *flag.FlagSet) {
			s.register(f)
			f.StringVar(&req.From, "from", "", "The calling `service`.")
			f.StringVar(&req.To, "to", "", "The called `service`.")
			f.StringVar(&req.Port, "port", "", "The called `port`, by name or number. Left out: the first.")
			f.StringVar(&req.Method, "method", "GET", "The `method`.")
			f.StringVar(&req.Path, "path", "/", "The `path`.")
			f.Var(headerFlags(req.Headers), "header", "A header as `name=value`; repeat for more.")
		},
		Run: func(c *Call) error {
			if req.From == "" || req.To == "" {
				return fmt.Errorf("say who calls whom: -from web -to api")
			}
			var e api.Explain
			if err := s.post(c, "/v1/explain", req, &e); err != nil {
				return err
			}
			if c.JSON {
				if err := c.printJSON(e); err != nil {
					return err
				}
			} else {
				printExplain(c, e)
			}
			if !e.Allowed {
				return findings()
			}
			return nil
		},
	}
}

func printExplain(c *Call, e api.Explain) {
	var t table
	for _, step := range e.Steps {
		where := ""
		if step.Where != "" {
			where = c.paint(color.Faint, step.Where)
		}
		t.add(step.Step, plain(step.What), where)
		for _, line := range step.List {
			t.add("", "  "+plain(line))
		}
	}
	t.print(c.out)
	if e.Allowed {
		fmt.Fprintln(c.out, c.paint(color.FgGreen, "\nallowed"))
		return
	}
	fmt.Fprintln(c.out, c.paint(color.FgRed, "\nrefused"))
	if e.Fix != "" {
		fmt.Fprintf(c.out, "This would let it through:\n\n%s\n", indent(strings.TrimSpace(e.Fix)))
	}
}
