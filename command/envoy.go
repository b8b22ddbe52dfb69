package command

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/kerege/kerege/agent/envoy"
	"github.com/kerege/kerege/api"
	"github.com/kerege/kerege/telemetry"
)

func envoyCommand() Command {
	var a agentFlags
	var service, workload, path, level string
	return Command{
		Name:     "envoy",
		Synopsis: "Run a service's Envoy, for a systemd unit or a Nomad task",
		Long: `Asks this host's agent for the bootstrap of a service's proxy, runs Envoy with it, and
reports ready (to systemd, where there is one) once its listeners are warm. With
-workload it stands in the allocation's network namespace, and hands the agent the
allocation's workload identity: nomad_kerege.jwt in NOMAD_SECRETS_DIR, else
NOMAD_TOKEN_kerege. It starts
Envoy again when it dies, and drains it when it is told to stop. It waits for an agent
that is not there yet, and goes on without one that went away.`,
		Example: "kerege envoy -service web",
		Flags: func(f *flag.FlagSet) {
			a.register(f)
			f.StringVar(&service, "service", "", "The `service` that it stands before.")
			f.StringVar(&workload, "workload", "", "The `workload` of it, where the host has several (a Nomad allocation).")
			f.StringVar(&path, "envoy", "", "Envoy's `program`. Left out: $ENVOY, then the agent's setting, then PATH.")
			f.StringVar(&level, "log-level", "warning", "Envoy's log `level`.")
		},
		Run: func(c *Call) error {
			if service == "" {
				return fmt.Errorf("say before which service: -service web")
			}
			notify := telemetry.NewNotifier()
			log := telemetry.Logger("kerege.envoy", telemetry.LogOptions{Output: c.err})
			boot, err := fetchBootstrap(c.ctx, log, &a, service, workload)
			if c.ctx.Err() != nil {
				log.Info("stopped before the agent gave it something to run")
				return nil
			}
			if err != nil {
				return err
			}
			program, err := findEnvoy(c.ctx, path, boot.Path)
			if err != nil {
				return err
			}
			seconds := func(s float64) time.Duration { return time.Duration(s * float64(time.Second)) }
			defer keepClaiming(c.ctx, log, &a, service, workload)()
			launcher := envoy.NewLauncher(envoy.Options{
				Path: program, Dir: boot.Dir, Bootstrap: boot.Bootstrap, Concurrency: boot.Concurrency, LogLevel: level,
				Drain: seconds(boot.DrainTimeoutSeconds), Output: c.err, Log: log,
				Ready: func() {
					log.Info("ready", "proxy", boot.ID)
					tell(log, notify.Ready("proxy "+boot.ID+" is ready"))
				},
			})
			err = launcher.Run(c.ctx)
			tell(log, notify.Stopping())
			return err
		},
	}
}

func findEnvoy(ctx context.Context, flag, setting string) (string, error) {
	if flag == "" && setting != "envoy" && setting != "" {
		flag = setting
	}
	program, err := envoy.FindEnvoy(flag)
	if err != nil {
		return "", err
	}
	return program, envoy.Check(ctx, program)
}

// fetchBootstrap asks the agent until it has an answer: an agent that is not
// there, or does not know the service yet, is waited for, with the reason in the log.
func fetchBootstrap(ctx context.Context, log hclog.Logger, a *agentFlags, service, workload string) (api.Bootstrap, error) {
	var boot api.Bootstrap
	client, err := a.client()
	if err != nil {
		return boot, err
	}
	limits, err := envoy.Detect()
	if err != nil {
		return boot, err
	}
	said := ""
	for {
		err := showClaim(ctx, client, service, workload)
		if err == nil {
			boot, err = client.Bootstrap(ctx, service, workload, limits)
		}
		if err == nil {
			return boot, nil
		}
		var refused *api.Error
		if errors.As(err, &refused) && refused.Status == 403 {
			return boot, err
		}
		if ctx.Err() != nil {
			return boot, ctx.Err()
		}
		if err.Error() != said {
			said = err.Error()
			log.Info("waiting for the agent", "why", said)
		}
		select {
		case <-ctx.Done():
			return boot, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}
