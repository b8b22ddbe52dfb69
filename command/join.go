package command

import (
	"errors"
	"flag"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/fatih/color"

	"github.com/kerege/kerege/agent"
	"github.com/kerege/kerege/api"
)

func joinCommand() Command {
	var a agentFlags
	var servers paths
	return Command{
		Name:     "join",
		Synopsis: "Take this host into the mesh, with a one-time token",
		Args:     "TOKEN|-",
		Long: `Shows a join token (kerege token create, on a server) to the control plane, and gets
this host its identity. The server is checked against the token. With - the token is
read from stdin, where a terminal does not show it. Nothing is captured by it: what
would be is shown, for kerege capture apply.`,
		Example: "kerege join -",
		Flags: func(f *flag.FlagSet) {
			a.register(f)
			f.Var(&servers, "server", "A server's `host:port`, besides those of the token and the settings; repeat for more.")
		},
		Run: func(c *Call) error {
			if len(c.Args) != 1 {
				return fmt.Errorf("one token is needed: kerege join kj_…, or - to read it from stdin")
			}
			token := c.Args[0]
			if token == "-" {
				text, err := readToken(c)
				if c.ctx.Err() != nil {
					return exit{code: exitError}
				}
				if err != nil {
					return fmt.Errorf("reading the token: %w", err)
				}
				token = pasted(text)
			}
			client, err := a.client()
			if err != nil {
				return err
			}
			joined, err := client.Join(c.ctx, api.AgentJoin{Token: token, Servers: servers})
			if err != nil {
				return a.explain(err)
			}
			if c.JSON {
				return c.printJSON(joined)
			}
			printJoined(c, joined)
			return nil
		},
	}
}

// pasted finds the token in what was pasted: the token alone, or the whole line
// that `kerege token create` prints.
func pasted(text string) string {
	for _, word := range strings.Fields(text) {
		if strings.HasPrefix(word, "kj_") {
			return word
		}
	}
	return strings.TrimSpace(text)
}

func printJoined(c *Call, j api.AgentJoined) {
	verb := "joined"
	if j.Already {
		verb = "is in already,"
	}
	fmt.Fprintf(c.out, "%s %s as a node of %s.\n", j.Node, verb, j.TrustDomain)
	if len(j.Workloads) == 0 {
		fmt.Fprintf(c.out, "No registry places a service on %s yet. Register one under this node's name, and it is found.\n", j.Node)
		return
	}
	for _, w := range j.Workloads {
		fmt.Fprintln(c.out, "Found "+workloadLine(c, w))
	}
	fmt.Fprintln(c.out, "Nothing is captured by this. What capture would do: kerege capture plan")
}

// workloadLine is "web (consul, :8080, user www-data, pid 812)".
func workloadLine(c *Call, w api.AgentWorkload) string {
	var facts []string
	if w.Source != "" {
		facts = append(facts, w.Source)
	}
	for _, p := range w.Ports {
		facts = append(facts, fmt.Sprintf(":%d", p))
	}
	switch {
	case w.Netns != "":
		facts = append(facts, "namespace "+w.Netns)
	case w.Slice != "":
		facts = append(facts, "slice "+w.Slice)
	case w.User != "":
		facts = append(facts, "user "+w.User)
	}
	if w.PID != 0 {
		facts = append(facts, fmt.Sprintf("pid %d", w.PID))
	}
	name := w.Service
	if w.Workload != "" {
		name += "/" + w.Workload
	}
	line := plain(name) + " (" + plain(strings.Join(facts, ", ")) + ")"
	if w.State == "held" {
		line += " " + c.paint(color.FgYellow, "held: "+plain(w.Reason))
	}
	return line
}

func leaveCommand() Command {
	var a agentFlags
	var req api.AgentLeave
	timeout := span(30 * time.Second)
	return Command{
		Name:     "leave",
		Synopsis: "Take this host, or one service of it, out of the mesh",
		Args:     "[SERVICE]",
		Long: `First takes the service out of its callers' endpoints, waits until a server has
acknowledged that, lets what is under way end, then removes the capture. Without a
SERVICE all of them leave, and the host's identity goes too. The tables are then what
they were before.`,
		Example: "kerege leave",
		Flags: func(f *flag.FlagSet) {
			a.register(f)
			f.Var(&timeout, "timeout", "The `duration` to wait for a server's acknowledgement.")
			f.BoolVar(&req.Force, "force", false, "Leave even when no server acknowledges: callers may still send here for a while.")
		},
		Run: func(c *Call) error {
			if len(c.Args) > 1 {
				return fmt.Errorf("one service, or none for all")
			}
			if len(c.Args) == 1 {
				req.Service = c.Args[0]
			}
			req.Timeout = time.Duration(timeout).Seconds()
			client, err := a.client()
			if err != nil {
				return err
			}
			left, err := client.Leave(c.ctx, req)
			if err != nil {
				return a.explain(nearestWorkload(c, client, req.Service, err))
			}
			if c.JSON {
				return c.printJSON(left)
			}
			if left.Nothing != "" {
				fmt.Fprintf(c.out, "nothing to leave: %s\n", plain(left.Nothing))
				return nil
			}
			what := strings.Join(left.Left, ", ")
			if what == "" {
				what = "nothing was in the mesh"
			}
			fmt.Fprintf(c.out, "left: %s", plain(what))
			if left.Acknowledged {
				fmt.Fprint(c.out, "; out of callers' endpoints (acknowledged)")
			}
			if left.CaptureRemoved {
				fmt.Fprint(c.out, "; capture removed")
			}
			if left.Identity {
				fmt.Fprint(c.out, "; this host's identity is gone")
			}
			fmt.Fprintln(c.out)
			return nil
		},
	}
}

// nearestWorkload adds to the agent's word that it has no such service the name that
// was perhaps meant.
func nearestWorkload(c *Call, client *agent.Client, name string, err error) error {
	var e *api.Error
	if name == "" || !errors.As(err, &e) || e.Status != http.StatusNotFound {
		return err
	}
	st, again := client.Status(c.ctx)
	if again != nil {
		return err
	}
	best, distance := "", 3
	for _, w := range st.Workloads {
		if d := editDistance(name, w.Service); d < distance {
			best, distance = w.Service, d
		}
	}
	if best == "" {
		return err
	}
	return fmt.Errorf("%w\nDid you mean kerege leave %s?", err, best)
}
