package command

import (
	"errors"
	"flag"

	"github.com/kerege/kerege/agent"
	"github.com/kerege/kerege/api"
)

// agentFlags are the options of every command that asks this host's agent.
type agentFlags struct{ address string }

const defaultAgent = "unix:///run/kerege/agent/api.sock"

func (a *agentFlags) register(f *flag.FlagSet) {
	f.StringVar(&a.address, "agent-addr", env("KEREGE_AGENT_ADDR", defaultAgent), "The agent's `address`: unix:///path. Also KEREGE_AGENT_ADDR.")
}

func (a *agentFlags) client() (*agent.Client, error) { return agent.NewClient(a.address) }

// explain says of an agent that cannot be reached what to look at.
func (a *agentFlags) explain(err error) error {
	if errors.Is(err, api.ErrUnreachable) {
		return degraded("%v\nIs the agent running? systemctl status kerege-agent. Elsewhere? -agent-addr or KEREGE_AGENT_ADDR.", err)
	}
	return err
}
