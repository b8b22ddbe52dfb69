package command

import (
	"context"
	"flag"
	"fmt"
	"path/filepath"
	"strings"

	"github.com/hashicorp/go-hclog"

	"github.com/kerege/kerege/api"
	"github.com/kerege/kerege/config"
	"github.com/kerege/kerege/server"
	"github.com/kerege/kerege/telemetry"
)

// paths collects a flag that may be given several times.
type paths []string

func (p *paths) String() string     { return strings.Join(*p, " ") }
func (p *paths) Set(s string) error { *p = append(*p, s); return nil }

func (p *paths) or(otherwise string) []string {
	if len(*p) == 0 {
		return []string{otherwise}
	}
	return *p
}

func serverCommand() Command {
	var settings paths
	var check bool
	return Command{
		Name:     "server",
		Synopsis: "Run a control plane",
		Long: `Runs the control plane: it watches the registries, compiles the mesh files, signs
certificates, and keeps every proxy in step. It carries no user traffic: killed at any
moment, every Envoy goes on with what it has.

SIGHUP applies the mesh files, as kerege apply does, takes log_level, and says which other
settings have changed and need a restart.`,
		Example: "kerege server -config /etc/kerege.d",
		Flags: func(f *flag.FlagSet) {
			f.Var(&settings, "config", "A settings `file` or directory; repeat for more. (default /etc/kerege.d)")
			f.BoolVar(&check, "check", false, "Check the settings and the mesh files that they name, and end. Nothing is started.")
		},
		Run: func(c *Call) error {
			if check {
				return checkServer(c, settings.or("/etc/kerege.d"))
			}
			cfg, diags := config.LoadServer(settings.or("/etc/kerege.d")...)
			if err := diags.WriteText(c.err, c.color); err != nil {
				return err
			}
			if cfg == nil {
				return exit{code: exitError}
			}
			return runServer(c, cfg, settings.or("/etc/kerege.d"))
		},
	}
}

// checkServer reports on the settings, then on the mesh files that they name.
func checkServer(c *Call, settings []string) error {
	cfg, diags := config.LoadServer(settings...)
	if cfg == nil || c.JSON {
		if cfg != nil {
			_, more := config.Load(cfg.MeshPaths...)
			diags = append(diags, more...)
		}
		return report(c, diags, "")
	}
	if err := report(c, diags, "Valid: settings of a server in "+strings.Join(settings, ", ")+"."); err != nil {
		return err
	}
	return reportMesh(c, cfg.MeshPaths)
}

// reloadServer reads the settings again, as reloadAgent does an agent's.
func reloadServer(c *Call, log hclog.Logger, started *config.Server, settings []string) {
	cfg, diags := config.LoadServer(settings...)
	if err := diags.WriteText(c.err, c.color); err != nil || cfg == nil {
		log.Error("reloading: the settings stay as they were", "error", err)
		return
	}
	relevel(log, cfg.Log, started.Differs(cfg), "systemctl restart kerege-server; every Envoy goes on meanwhile")
}

func runServer(c *Call, cfg *config.Server, settings []string) error {
	notify := telemetry.NewNotifier()
	log := telemetry.Logger("kerege", telemetry.LogOptions{Level: cfg.Log.Level, JSON: cfg.Log.JSON, Output: c.err})
	s, err := server.New(cfg, server.Options{Version: version, Logger: log, Ready: func(status string) {
		if err := notify.Ready(status); err != nil {
			log.Warn("systemd is not told", "error", err)
		}
	}})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(c.ctx)
	defer cancel()
	self, err := api.NewClient(api.Options{Address: "unix://" + filepath.Join(cfg.RunDir, "server", "api.sock")})
	if err != nil {
		return err
	}
	stopFeeding := feedWatchdog(ctx, log, notify, func(ctx context.Context) error {
		if err := self.Get(ctx, "/v1/status", nil); err != nil { // through the API, the registry and the planner's tables
			return err
		}
		return s.Alive(ctx)
	})
	defer stopFeeding()
	stopReloading := onHangup(func() {
		tell(log, notify.Reloading())
		reloadServer(c, log, cfg, settings)
		s.Reload(ctx)
		tell(log, notify.Reloaded())
	})
	err = s.Run(ctx)
	cancel()
	stopReloading()
	if stopErr := notify.Stopping(); stopErr != nil {
		log.Warn("systemd is not told", "error", stopErr)
	}
	if err != nil {
		return fmt.Errorf("serving: %w", err)
	}
	return nil
}
