package command

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/kerege/kerege/agent/envoy"
	"github.com/kerege/kerege/api"
	"github.com/kerege/kerege/telemetry"
)

func envoyCommand() Command {
	var a agentFlags
	var service, workload, path, level string
	var reload bool
	return Command{
		Name:     "envoy",
		Synopsis: "Run a service's Envoy, for a systemd unit or a Nomad task",
		Long: `Asks this host's agent for the bootstrap of a service's proxy, runs Envoy with it, and
reports ready (to systemd, where there is one) once its listeners are warm. It starts
Envoy again when it dies, and drains it when it is told to stop. It waits for an agent
that is not there yet, and goes on without one that went away.

With -workload it stands in the allocation's network namespace, and hands the agent the
allocation's workload identity: nomad_kerege.jwt in NOMAD_SECRETS_DIR, else
NOMAD_TOKEN_kerege.

On SIGHUP, and when asked by -reload, it starts a new Envoy, of the program that is at
its path by then and with a new bootstrap, which takes over the listening sockets: no
call is refused or lost. The one before accepts nobody any more and ends when its last
connection has, or after drain_timeout; as long there are two. -reload waits until the
new one serves. It fails, and the one before serves on, where that does not come to be.`,
		Example: "kerege envoy -service web",
		Flags: func(f *flag.FlagSet) {
			a.register(f)
			f.StringVar(&service, "service", "", "The `service` that it stands before.")
			f.StringVar(&workload, "workload", "", "The `workload` of it, where the host has several (a Nomad allocation).")
			f.StringVar(&path, "envoy", "", "Envoy's `program`. Left out: $ENVOY, then the agent's setting, then PATH.")
			f.BoolVar(&reload, "reload", false, "Have the one that runs start a new Envoy, and wait until that serves.")
			f.StringVar(&level, "log-level", "warning", "Envoy's log `level`.")
		},
		Run: func(c *Call) error {
			if service == "" {
				return fmt.Errorf("say before which service: -service web")
			}
			e := envoyRun{agent: &a, service: service, workload: workload, path: path, level: level, out: c.err,
				log: telemetry.Logger("kerege.envoy", telemetry.LogOptions{Output: c.err})}
			if reload {
				return e.askReload(c.ctx)
			}
			return e.run(c.ctx)
		},
	}
}

// envoyRun is one call of the command.
type envoyRun struct {
	agent             *agentFlags
	service, workload string
	path, level       string
	out               io.Writer
	log               hclog.Logger
}

func (e *envoyRun) run(ctx context.Context) error {
	var running atomic.Pointer[envoy.Launcher] // nil: the first Envoy is not started yet, and will be the newest
	defer onHangup(func() {
		if l := running.Load(); l != nil {
			if err := l.Reload(ctx); err != nil && ctx.Err() == nil {
				e.log.Error("no reload", "error", err)
			}
		}
	})()
	notify := telemetry.NewNotifier()
	boot, err := fetchBootstrap(ctx, e.log, e.agent, e.service, e.workload)
	if ctx.Err() != nil {
		e.log.Info("stopped before the agent gave it something to run")
		return nil
	}
	if err != nil {
		return err
	}
	program, err := findEnvoy(ctx, e.path, boot.Path)
	if err != nil {
		return err
	}
	defer keepClaiming(ctx, e.log, e.agent, e.service, e.workload)()
	launcher := envoy.NewLauncher(envoy.Options{
		Path: program, Dir: boot.Dir, Bootstrap: boot.Bootstrap, Concurrency: boot.Concurrency, LogLevel: e.level,
		Drain: time.Duration(boot.DrainTimeoutSeconds * float64(time.Second)), Output: e.out, Log: e.log,
		Ready: func() {
			e.log.Info("ready", "proxy", boot.ID)
			tell(e.log, notify.Ready("proxy "+boot.ID+" is ready"))
		},
		Renew: func(ctx context.Context) (envoy.Fresh, error) { return e.renew(ctx, boot.Dir) },
	})
	running.Store(launcher)
	err = launcher.Run(ctx)
	tell(e.log, notify.Stopping())
	return err
}

// renewWithin is how long an agent that has just been restarted may take until it
// serves the proxy again. A new Envoy has nothing to start from before.
const renewWithin = 10 * time.Second

// renew is what a new Envoy is to be started with.
func (e *envoyRun) renew(ctx context.Context, dir string) (out envoy.Fresh, err error) {
	wait, cancel := context.WithTimeout(ctx, renewWithin)
	defer cancel()
	client, err := e.agent.client()
	if err != nil {
		return out, err
	}
	if err := client.Wait(wait, e.service, e.workload); err != nil {
		return out, err
	}
	boot, err := fetchBootstrap(wait, e.log, e.agent, e.service, e.workload)
	if err != nil {
		return out, fmt.Errorf("asking the agent for a bootstrap: %w", err)
	}
	if boot.Dir != dir {
		return out, fmt.Errorf("the proxy's folder is %s by now, and the Envoy that runs has its sockets in %s: restart it instead", boot.Dir, dir)
	}
	out.Bootstrap = boot.Bootstrap
	out.Path, err = findEnvoy(ctx, e.path, boot.Path)
	return out, err
}

// askReload has the launcher that runs reload, and waits for it.
func (e *envoyRun) askReload(ctx context.Context) error {
	wait, cancel := context.WithTimeout(ctx, renewWithin)
	defer cancel()
	boot, err := fetchBootstrap(wait, e.log, e.agent, e.service, e.workload)
	if err != nil {
		return fmt.Errorf("asking the agent where the proxy is: %w", err)
	}
	return envoy.Ask(ctx, boot.Dir)
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
			return boot, fmt.Errorf("%w: %w", err, ctx.Err())
		}
		if err.Error() != said {
			said = err.Error()
			log.Info("waiting for the agent", "why", said)
		}
		select {
		case <-ctx.Done():
			return boot, fmt.Errorf("%s: %w", said, ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}
