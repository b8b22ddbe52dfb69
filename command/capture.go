package command

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/fatih/color"

	"github.com/kerege/kerege/agent/capture"
	"github.com/kerege/kerege/api"
	"github.com/kerege/kerege/config"
	"github.com/kerege/kerege/telemetry"
)

// sshConnection is the operator's own session, which capture must never touch.
func sshConnection() string { return os.Getenv("SSH_CONNECTION") }

func captureApplyCommand() Command {
	var a agentFlags
	var req api.CaptureApply
	undo := span(time.Minute)
	return Command{
		Name:     "capture apply",
		Synopsis: "Steer this host's services through their Envoys; undoes itself unless it works",
		Long: `Writes the rules that kerege capture plan shows, probes them through both directions,
and takes them out again after a while unless the probe passed or you confirm. Sessions
that are open live on; port 22 and your own session are never touched.

Exits 1 with the ways out when something stops it; nothing was captured then.`,
		Example: "kerege capture apply",
		Flags: func(f *flag.FlagSet) {
			a.register(f)
			f.Var(&undo, "undo", "The `duration` after which it is undone unless confirmed.")
			f.BoolVar(&req.Manual, "manual", false, "A passed probe does not confirm: only kerege capture confirm does.")
			f.IntVar(&req.Accept, "accept-refusals", 0, "The `number` of callers outside the mesh that strict services may refuse from now on.")
		},
		Run: func(c *Call) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			req.UndoSeconds, req.SSH = time.Duration(undo).Seconds(), sshConnection()
			out, err := client.CaptureApply(c.ctx, req)
			if err != nil {
				return a.explain(err)
			}
			if c.JSON {
				return c.printJSON(out)
			}
			if len(out.Workloads) == 0 {
				fmt.Fprintln(c.out, "Nothing to capture: no service of this host is ready for it.")
			} else if out.Changed {
				fmt.Fprintf(c.out, "applied in %d ms: %s\n", out.Took.Milliseconds(), strings.Join(out.Workloads, ", "))
			} else {
				fmt.Fprintf(c.out, "nothing to write: the rules are there (%s)\n", strings.Join(out.Workloads, ", "))
			}
			for _, h := range out.Held {
				fmt.Fprintf(c.out, "left out: %s\n", plain(h.Error()))
			}
			printProbes(c, out.Probes)
			if !out.Deadline.IsZero() && !out.Confirmed {
				fmt.Fprintln(c.out, c.paint(color.FgYellow, fmt.Sprintf("Undone by itself in %s unless you confirm: kerege capture confirm", ago(time.Until(out.Deadline)))))
			}
			return nil
		},
	}
}

func printProbes(c *Call, probes []capture.Probe) {
	var t table
	for _, p := range probes {
		mark := c.paint(color.FgGreen, "✓")
		if !p.OK {
			mark = c.paint(color.FgRed, "✗")
		}
		t.add("  "+mark, dash(p.Workload), p.What, familyName(p.Family), plain(p.Why))
	}
	t.print(c.out)
}

func familyName(f capture.Family) string {
	if f == 0 {
		return ""
	}
	return fmt.Sprintf("ipv%d", f)
}

func captureConfirmCommand() Command {
	var a agentFlags
	return Command{
		Name:     "capture confirm",
		Synopsis: "Keep the capture that was applied",
		Long:     "Stops the clock that would undo the capture; a passed probe has done so already. The capture\nis back after a reboot, before the services start.",
		Example:  "kerege capture confirm",
		Flags:    a.register,
		Run: func(c *Call) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			if err := client.CaptureConfirm(c.ctx); err != nil {
				return a.explain(err)
			}
			if c.JSON {
				return c.printJSON(struct {
					Confirmed bool `json:"confirmed"`
				}{true})
			}
			fmt.Fprintln(c.out, "confirmed: the capture stays. Take it out: kerege capture remove")
			return nil
		},
	}
}

func captureRemoveCommand() Command {
	var a agentFlags
	var orphaned bool
	var state string
	var req api.CaptureRemove
	timeout := span(30 * time.Second)
	var settings paths
	return Command{
		Name:     "capture remove",
		Synopsis: "Take all of kerege's rules out; the tables are as they were before",
		Long: `First takes this host's services out of their callers' endpoints, waits until a server has
acknowledged that, and lets what is under way end; then removes every chain and jump of
kerege's, and nothing else. It is safe twice, and after a crash. Callers go on to other
instances; where there is none, a strict service is held (kerege services says why) and a
permissive one gets plaintext. The host stays joined: kerege capture apply brings it back.
Where no server answers, callers cannot be told, and nothing is changed without -force.

With -if-orphaned, which the agent's unit calls when the agent has ended, it asks no agent
and takes out only what must not stay without one: the jump of DNS where nobody answers,
rules that steer to an Envoy that is gone where on_envoy_down is "bypass", and what nobody
confirmed in time. Where an agent runs it does nothing.`,
		Example: "kerege capture remove",
		Flags: func(f *flag.FlagSet) {
			a.register(f)
			f.Var(&timeout, "timeout", "The `duration` to wait for a server's acknowledgement.")
			f.BoolVar(&req.Force, "force", false, "Remove it even when no server acknowledges: callers go on to send here, and their calls fail.")
			f.BoolVar(&orphaned, "if-orphaned", false, "Only what must not stay without an agent, and only if there is none.")
			f.StringVar(&state, "state-dir", "", "With -if-orphaned: the agent's capture `directory`; else that of data_dir in the settings.")
			f.Var(&settings, "config", "With -if-orphaned: settings that say data_dir, a `file` or directory. (default /etc/kerege.d)")
		},
		Run: func(c *Call) error {
			if orphaned && state == "" {
				state = stateDir(settings.or("/etc/kerege.d"))
			}
			if orphaned {
				return removeOrphaned(c, state)
			}
			client, err := a.client()
			if err != nil {
				return err
			}
			req.Timeout = time.Duration(timeout).Seconds()
			out, err := client.CaptureRemove(c.ctx, req)
			if err != nil {
				return a.explain(err)
			}
			if c.JSON {
				return c.printJSON(out)
			}
			if len(out.Out) > 0 {
				told := "; no server has acknowledged it: callers still send here"
				if out.Acknowledged {
					told = " and of callers' endpoints (acknowledged)"
				}
				fmt.Fprintf(c.out, "out of the mesh: %s%s\n", strings.Join(out.Out, ", "), told)
			}
			if out.Changed {
				fmt.Fprintln(c.out, "removed: the tables are as they were before")
			} else {
				fmt.Fprintln(c.out, "nothing was captured")
			}
			return nil
		},
	}
}

// stateDir is where the agent of these settings keeps the capture's record; where
// they cannot be read, where one without settings would.
func stateDir(settings []string) string {
	dir := "/var/lib/kerege/agent"
	if cfg, diags := config.LoadAgent(settings...); cfg != nil && !diags.HasErrors() {
		dir = cfg.DataDir
	}
	return filepath.Join(dir, "capture")
}

// removeOrphaned does without an agent what its stand-in would.
func removeOrphaned(c *Call, state string) error {
	m := capture.New(capture.Options{StateDir: state, Log: telemetry.Logger("kerege.capture", telemetry.LogOptions{Output: c.err})})
	orphan, err := m.RemoveOrphaned(c.ctx)
	if err != nil {
		return err
	}
	if c.JSON {
		return c.printJSON(struct {
			Orphaned bool `json:"orphaned"`
		}{orphan})
	}
	if orphan {
		fmt.Fprintln(c.out, "no agent looks after the capture: what must not stay without one is out")
	} else {
		fmt.Fprintln(c.out, "nothing to do: nothing is captured, or an agent looks after it")
	}
	return nil
}

func captureVerifyCommand() Command {
	var a agentFlags
	return Command{
		Name:     "capture verify",
		Synopsis: "Probe the capture with real connections",
		Long:     "Compares the tables with what they should be, and sends a connection of each service's user\nthrough them in every direction.\n\nExits 2 when a probe fails.",
		Example:  "kerege capture verify",
		Flags:    a.register,
		Run: func(c *Call) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			probes, err := client.CaptureVerify(c.ctx)
			if err != nil {
				return a.explain(err)
			}
			if c.JSON {
				err = c.printJSON(probes)
			} else {
				printProbes(c, probes)
			}
			if err == nil && !capture.Passed(probes) {
				return findings()
			}
			return err
		},
	}
}

func captureStatusCommand() Command {
	var a agentFlags
	return Command{
		Name:     "capture status",
		Synopsis: "What is captured now",
		Long:     "Shows whether a capture is applied, until when it may be confirmed, and whether the tables\nare as they should be. Writes nothing.\n\nExits 3 when they are not.",
		Example:  "kerege capture status",
		Flags:    a.register,
		Run: func(c *Call) error {
			client, err := a.client()
			if err != nil {
				return err
			}
			st, err := client.CaptureStatus(c.ctx)
			if err != nil {
				return a.explain(err)
			}
			if c.JSON {
				return c.printJSON(st)
			}
			err = printCaptureStatus(c, st)
			if node, e := client.Status(c.ctx); e == nil && node.Evicted {
				fmt.Fprintln(c.out, c.paint(color.FgRed, evicted(node)))
				return exit{code: exitDegraded}
			}
			return err
		},
	}
}

func printCaptureStatus(c *Call, st capture.Status) error {
	if !st.Applied && st.Pending != "" {
		fmt.Fprintln(c.out, c.paint(color.FgRed, plain(st.Pending)))
		return exit{code: exitDegraded}
	}
	if !st.Applied {
		fmt.Fprintln(c.out, "Nothing is captured.")
		return nil
	}
	fmt.Fprintf(c.out, "captured; repaired %s after others had changed the tables\n", count(int(st.Repairs), "time", "times"))
	if !st.Deadline.IsZero() {
		fmt.Fprintln(c.out, c.paint(color.FgYellow, fmt.Sprintf("Undone by itself in %s unless you confirm: kerege capture confirm", ago(time.Until(st.Deadline)))))
	}
	settled := st.Pending == ""
	for _, n := range st.Namespaces {
		where := "host"
		if n.Netns != "" {
			where = n.Netns
		}
		state := "as they should be"
		if !n.Settled {
			state, settled = c.paint(color.FgRed, "not as they should be: "+plain(n.Error)), false
		}
		fmt.Fprintf(c.out, "%s: %s, tables %s, live %s\n", plain(where), n.Backend, state, strings.Join(n.Live, " "))
		if n.Warning != "" {
			fmt.Fprintln(c.out, "  "+c.paint(color.FgYellow, plain(n.Warning)))
		}
	}
	for _, w := range st.Down {
		fmt.Fprintln(c.out, c.paint(color.FgYellow, plain(w)+": its Envoy is away, calls go around it"))
	}
	if !settled {
		if st.Pending != "" {
			fmt.Fprintln(c.out, c.paint(color.FgRed, "pending: "+plain(st.Pending)))
		}
		return exit{code: exitDegraded}
	}
	return nil
}
