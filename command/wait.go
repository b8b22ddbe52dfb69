package command

import (
	"context"
	"flag"
	"fmt"
	"strings"
	"time"

	"github.com/kerege/kerege/api"
)

func waitCommand() Command {
	var a agentFlags
	var service, workload string
	timeout := span(time.Minute)
	return Command{
		Name:     "wait",
		Synopsis: "Wait until a service's proxy is ready",
		Long: `Returns when the proxy of a service on this host has its certificates and its listeners
are warm, so that a program that starts after it finds its way. It also waits for an
agent that is not there yet.

Exits 3 when the time is over; the last reason is printed.`,
		Example: "kerege wait -service web -timeout 60s",
		Flags: func(f *flag.FlagSet) {
			a.register(f)
			f.StringVar(&service, "service", "", "The `service`.")
			f.StringVar(&workload, "workload", "", "The `workload` of it, where the host has several.")
			f.Var(&timeout, "timeout", "The `duration` to wait, such as 90s.")
		},
		Run: func(c *Call) error {
			if service == "" {
				return fmt.Errorf("say for which service: -service web")
			}
			client, err := a.client()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(c.ctx, time.Duration(timeout))
			defer cancel()
			if err := client.Wait(ctx, service, workload); err != nil {
				why, late := strings.CutSuffix(err.Error(), ": "+context.DeadlineExceeded.Error())
				if late {
					why += " (waited " + timeout.String() + ")"
				}
				return degraded("%s", why)
			}
			if c.JSON {
				return c.printJSON(api.AgentReady{Ready: true})
			}
			fmt.Fprintf(c.out, "the proxy of %s is ready\n", service)
			return nil
		},
	}
}
