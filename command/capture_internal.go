package command

import (
	"flag"

	"github.com/kerege/kerege/agent"
	"github.com/kerege/kerege/agent/capture"
	"github.com/kerege/kerege/telemetry"
)

// captureGuardCommand is started by the agent and outlives it.
func captureGuardCommand() Command {
	var state string
	return Command{
		Name:     "capture guard",
		Synopsis: "Stand in for an agent that died (the agent starts this)",
		Long: `Waits on stdin for the end of the agent that started it. When that dies, it answers names
in its place (or takes the DNS jump out where it cannot), and lets traffic go around
Envoys that are gone where that is allowed, until an agent is back. Nobody needs to run
it by hand.`,
		Example: "kerege capture guard -state-dir /var/lib/kerege/agent/capture",
		Flags: func(f *flag.FlagSet) {
			f.StringVar(&state, "state-dir", "/var/lib/kerege/agent/capture", "The agent's capture `directory`.")
		},
		Run: func(c *Call) error {
			log := telemetry.Logger("kerege.guard", telemetry.LogOptions{Output: c.err})
			return agent.StandIn(c.ctx, state, c.in, log)
		},
	}
}

// captureDialCommand is started by the agent as another user, or in another cgroup.
func captureDialCommand() Command {
	return Command{
		Name:     "capture dial",
		Synopsis: "Make one probing connection (the agent starts this)",
		Args:     "ARGS...",
		Long:     "Dials from where the agent put it and says what answered. Nobody needs to run it by hand.",
		Example:  "kerege capture dial",
		Run: func(c *Call) error {
			return capture.ProbeMain(c.Args, c.in, c.out)
		},
	}
}
