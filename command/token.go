package command

import (
	"flag"
	"fmt"
	"time"

	"github.com/kerege/kerege/api"
)

func tokenCreateCommand() Command {
	var s serverFlags
	var node string
	ttl := span(10 * time.Minute)
	return Command{
		Name:     "token create",
		Synopsis: "Make a join token: one host, once, for a short time",
		Long: `Prints a one-time join token for a host, as a line to paste on it. The token carries
the hash of the mesh's CA, so the host knows whom it joins. It is a secret until it
is used or expires.`,
		Example: "kerege token create -node vm-12",
		Flags: func(f *flag.FlagSet) {
			s.register(f)
			f.StringVar(&node, "node", "", "The `name` of the host, as the registries know it. Left out: any host.")
			f.Var(&ttl, "ttl", "The `duration` in which it may be used.")
		},
		Run: func(c *Call) error {
			var t api.Token
			if err := s.post(c, "/v1/tokens", api.TokenRequest{Node: node, TTLSeconds: time.Duration(ttl).Seconds()}, &t); err != nil {
				return err
			}
			if c.JSON {
				return c.printJSON(t)
			}
			where := "on the host"
			if t.Node != "" {
				where = "on " + t.Node
			}
			// Only the command goes to stdout, so that `… | ssh vm-12 sudo kerege join -` works.
			if c.color {
				fmt.Fprintf(c.out, "kerege join %s  # once, %s, in the next %s\n", t.Token, where, ago(time.Until(t.Expires)))
				return nil
			}
			fmt.Fprintln(c.out, t.Token)
			return nil
		},
	}
}
