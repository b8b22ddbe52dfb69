package command

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/fatih/color"

	"github.com/kerege/kerege/agent"
	"github.com/kerege/kerege/agent/capture"
	"github.com/kerege/kerege/api"
)

func agentStatusCommand() Command {
	var a agentFlags
	return Command{
		Name:     "agent status",
		Synopsis: "This host as its agent sees it",
		Long: `Shows the steps of the agent, which servers it reaches, its certificate, each service of
this host with its way into the mesh, and the capture. It asks this host's agent alone, so
it answers with every server away. Changes nothing.

Exits 3 when something of it is degraded.`,
		Example: "kerege agent status",
		Flags:   a.register,
		Run: func(c *Call) error {
			err := printAgent(c, &a)
			if err != nil {
				return a.explain(err)
			}
			return nil
		},
	}
}

// instead answers for a server that is not on this host: by its agent, where there
// is one. Else it is err.
func (s *serverFlags) instead(c *Call, err error) error {
	var e exit
	if !errors.As(err, &e) || e.code != exitDegraded || s.address != defaultServer {
		return err
	}
	a := agentFlags{address: env("KEREGE_AGENT_ADDR", defaultAgent)}
	if client, e := a.client(); e != nil || probeAgent(c, client) != nil {
		return err
	}
	fmt.Fprintf(c.err, "No server answers on this host, so this is its agent's word (kerege agent status). The mesh: kerege status on a server, or -addr.\n")
	return printAgent(c, &a)
}

func probeAgent(c *Call, client *agent.Client) error {
	ctx, cancel := context.WithTimeout(c.ctx, 2*time.Second)
	defer cancel()
	_, err := client.Status(ctx)
	return err
}

// printAgent shows what an agent says of its host; an exit code where that is not well.
func printAgent(c *Call, a *agentFlags) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	st, err := client.Status(c.ctx)
	if err != nil {
		return err
	}
	if c.JSON {
		err = c.printJSON(st)
	} else {
		captured, e := client.CaptureStatus(c.ctx)
		agentLines(c, st, captured, e)
	}
	if err == nil && unwellAgent(st) {
		return exit{code: exitDegraded}
	}
	return err
}

func unwellAgent(st api.AgentStatus) bool {
	for _, s := range st.Steps {
		if s.State != "up" {
			return true
		}
	}
	for _, w := range st.Workloads {
		if w.State != "in" && w.State != "left" {
			return true
		}
	}
	return !st.Servers.Connected || st.Evicted || len(st.Warnings) > 0 || st.Disk != ""
}

func agentLines(c *Call, st api.AgentStatus, captured capture.Status, captureErr error) {
	var t table
	where := "not in a mesh: kerege join"
	if st.Joined {
		where = "a node of " + plain(st.TrustDomain)
	}
	t.add("host", plain(st.Node)+", "+where+", kerege "+plain(st.Version))
	if !st.Expires.IsZero() {
		t.add("certificate", "until "+day(st.Expires))
	}
	servers := "reached: " + strings.Join(st.Servers.Addresses, ", ")
	if !st.Servers.Connected {
		servers = c.paint(color.FgRed, "none is reached of "+dash(strings.Join(st.Servers.Addresses, ", ")))
		if !st.Servers.Heard.IsZero() {
			servers += ", last heard " + since(st.Servers.Heard)
		}
		if st.Servers.Error != "" {
			servers += ": " + plain(st.Servers.Error)
		}
	}
	t.add("servers", servers)
	t.add("steps", stepsLine(c, st.Steps))
	t.add("capture", captureLine(c, captured, captureErr))
	label := "services"
	for _, w := range st.Workloads {
		t.add(label, workloadState(c, w))
		label = ""
	}
	if len(st.Workloads) == 0 {
		t.add(label, "none is placed on this host")
	}
	t.print(c.out)
	if st.Evicted {
		fmt.Fprintln(c.out, c.paint(color.FgRed, evicted(st)))
	}
	for _, w := range append(st.Warnings, st.Disk) {
		if w != "" {
			fmt.Fprintln(c.out, c.paint(color.FgYellow, "warning: "+plain(w)))
		}
	}
}

// stepsLine names those that stand, and of the first that does not, why.
func stepsLine(c *Call, steps []api.AgentStep) string {
	var up, down []string
	for _, s := range steps {
		switch {
		case s.State == "up":
			up = append(up, s.Name)
		case s.Error != "":
			down = append(down, plain(s.Name+" "+s.State+": "+s.Error))
		default:
			down = append(down, plain(s.Name+" "+s.State))
		}
	}
	if len(down) == 0 {
		return "all up: " + strings.Join(up, " ")
	}
	return "up: " + dash(strings.Join(up, " ")) + "; " + c.paint(color.FgRed, strings.Join(down, ", "))
}

func captureLine(c *Call, st capture.Status, err error) string {
	switch {
	case err != nil:
		return plain(err.Error())
	case st.Pending != "":
		return c.paint(color.FgRed, plain(st.Pending))
	case !st.Applied:
		return "nothing is captured"
	case !st.Deadline.IsZero():
		return c.paint(color.FgYellow, "undone by itself in "+ago(time.Until(st.Deadline))+" unless you confirm: kerege capture confirm")
	}
	var all []string
	if st.Config != nil {
		for _, w := range st.Config.Workloads {
			all = append(all, plain(w.Name))
		}
	}
	return "applied: " + strings.Join(all, ", ")
}

func workloadState(c *Call, w api.AgentWorkload) string {
	name := w.Service
	if w.Workload != "" {
		name += "/" + w.Workload
	}
	state := w.State
	if w.State == "in" && !w.Accepted {
		state += ", and no server has said so yet"
	}
	if w.Reason != "" {
		state += ": " + plain(w.Reason)
	}
	if w.State != "in" || w.Reason != "" {
		state = c.paint(color.FgYellow, state)
	}
	if w.Proxy.ID != "" && w.Proxy.Envoys == 0 {
		state += "; " + c.paint(color.FgRed, "no Envoy is connected")
	}
	if !w.Expires.IsZero() {
		state += "; certificate until " + day(w.Expires)
	}
	return plain(name) + " " + state
}

// evicted is the sentence for a host that was sent away.
func evicted(st api.AgentStatus) string {
	return fmt.Sprintf("This host was sent away from the mesh: kerege node list on a server says why. It comes back with kerege token create -node %s there, then kerege join here; or take the capture out: kerege leave -force", plain(st.Node))
}
