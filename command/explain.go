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
route, the split, the instances and what keeps them from callers, their identity, and
the decision, each with the file and line that says so. Nothing is sent. Where an
intention is missing, what would allow this call, and no more, is printed. While the
mesh is frozen it goes by what the proxies have, and says so. A connection to a tcp or
tls port has no method, path or header.

Exits 2 when the call would reach no instance.`,
		Example: "kerege explain -from web -to api -method GET -path /v1/items",
		Flags: func(f *flag.FlagSet) {
			s.register(f)
			f.StringVar(&req.From, "from", "", "The calling `service`.")
			f.StringVar(&req.To, "to", "", "The called `service`.")
			f.StringVar(&req.Port, "port", "", "The called `port`, by name or number. Left out: the first.")
			f.StringVar(&req.Method, "method", "GET", "The `method`.")
			f.StringVar(&req.Path, "path", "/", "The `path`.")
			f.BoolVar(&req.Applied, "applied", false, "While frozen: by what is applied, which a thaw brings.")
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
				printExplain(c, e, req.Applied)
			}
			if !e.Allowed {
				return findings()
			}
			return nil
		},
	}
}

func printExplain(c *Call, e api.Explain, applied bool) {
	wide := 0
	for _, step := range e.Steps {
		wide = max(wide, width(step.Step))
	}
	for i, step := range e.Steps {
		name := step.Step
		if i > 0 && e.Steps[i-1].Step == name {
			name = ""
		}
		line := fmt.Sprintf("%-*s  %s", wide, name, plain(step.What))
		if step.Where != "" { // not in a column of its own, which the longest sentence would push off the screen
			line += "  " + c.paint(color.Faint, step.Where)
		}
		c.say(line, wide+2)
		for _, text := range step.List {
			c.say(fmt.Sprintf("%-*s    %s", wide, "", plain(text)), wide+6)
		}
	}
	verdict, fix := c.paint(color.FgGreen, e.Verdict), ""
	if !e.Allowed {
		verdict, fix = c.paint(color.FgRed, e.Verdict), e.Fix
	}
	fmt.Fprintln(c.out)
	c.say(verdict, 2)
	if e.Frozen != nil {
		c.say(c.paint(color.FgYellow, frozenCall(e, applied)), 2)
	}
	if fix != "" {
		fmt.Fprintf(c.out, "This would allow it:\n\n%s\n", indent(strings.TrimSpace(fix)))
	}
}

// frozenCall says what a thaw makes of a call.
func frozenCall(e api.Explain, applied bool) string {
	if e.Frozen.Unknown || applied || e.Frozen.Waiting == 0 {
		return frozenAnswer(e.Frozen, applied)
	}
	if e.Thawed == "" {
		return fmt.Sprintf("%s: %s, and kerege thaw changes nothing for this call.", frozenSince(e.Frozen), waits(e.Frozen))
	}
	if e.Thawed == e.Verdict {
		return fmt.Sprintf("%s: %s; kerege thaw changes how this call goes. With -applied to see it.", frozenSince(e.Frozen), waits(e.Frozen))
	}
	return fmt.Sprintf("%s: %s; after kerege thaw: %s. With -applied to see how.", frozenSince(e.Frozen), waits(e.Frozen), e.Thawed)
}
