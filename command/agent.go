package command

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/hashicorp/go-hclog"

	"github.com/kerege/kerege/agent"
	"github.com/kerege/kerege/config"
	"github.com/kerege/kerege/telemetry"
)

func agentCommand() Command {
	var settings paths
	var check bool
	return Command{
		Name:     "agent",
		Synopsis: "Run a node's agent",
		Long: `Runs the agent of this host: it holds the host's identities, serves the host's Envoys
their configuration and certificates, answers mesh names, and keeps the capture that
was applied. It captures nothing by itself. With every server away it serves from its
own disk.

SIGHUP takes log_level, and says which other settings have changed and need a restart.`,
		Example: "kerege agent -config /etc/kerege.d",
		Flags: func(f *flag.FlagSet) {
			f.Var(&settings, "config", "A settings `file` or directory; repeat for more. (default /etc/kerege.d)")
			f.BoolVar(&check, "check", false, "Check the settings, and end. Nothing is started.")
		},
		Run: func(c *Call) error {
			if check {
				return reportAgent(c, settings.or("/etc/kerege.d"))
			}
			cfg, diags := config.LoadAgent(settings.or("/etc/kerege.d")...)
			if err := diags.WriteText(c.err, c.color); err != nil {
				return err
			}
			if cfg == nil {
				return exit{code: exitError}
			}
			return runAgent(c, cfg, settings.or("/etc/kerege.d"))
		},
	}
}

func runAgent(c *Call, cfg *config.Agent, settings []string) error {
	notify := telemetry.NewNotifier()
	log := telemetry.Logger("kerege", telemetry.LogOptions{Level: cfg.Log.Level, JSON: cfg.Log.JSON, Output: c.err})
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding this program: %w", err)
	}
	a, err := agent.New(cfg, agent.Options{
		Version: version, Logger: log.Named("agent"),
		Ready:  func() { tell(log, notify.Ready("the API answers")) },
		Status: func(line string) { tell(log, notify.Status(line)) },
		Guard:  []string{self, "capture", "guard", "-state-dir", filepath.Join(cfg.DataDir, "capture")},
		Dial:   []string{self, "capture", "dial"},
	})
	if err != nil {
		return err
	}
	client, err := agent.NewClient("unix://" + agent.APISocket(cfg))
	if err != nil {
		return err
	}
	stopFeeding := feedWatchdog(c.ctx, log, notify, func(ctx context.Context) error {
		if _, err := client.Ready(ctx, "", ""); err != nil { // through the API, the table of proxies and its lock
			return err
		}
		return a.Alive()
	})
	defer stopFeeding()
	defer onHangup(func() {
		tell(log, notify.Reloading())
		reloadAgent(c, log, cfg, settings)
		tell(log, notify.Reloaded())
	})()
	err = a.Run(c.ctx)
	tell(log, notify.Stopping())
	if err != nil {
		return fmt.Errorf("running the agent: %w", err)
	}
	return nil
}

// reloadAgent reads the settings again; of them the log's level is taken while
// the agent runs. The others that are not those it was started with are named.
func reloadAgent(c *Call, log hclog.Logger, started *config.Agent, settings []string) {
	cfg, diags := config.LoadAgent(settings...)
	if err := diags.WriteText(c.err, c.color); err != nil || cfg == nil {
		log.Error("reloading: the settings stay as they were", "error", err)
		return
	}
	relevel(log, cfg.Log, started.Differs(cfg), "systemctl restart kerege-agent; it loses no call")
}

// relevel takes the log's level, and says what else would need a restart.
func relevel(log hclog.Logger, to config.Log, differs []string, restart string) {
	log.SetLevel(hclog.LevelFromString(to.Level))
	log.Info("reloaded", "log_level", to.Level)
	differs = slices.DeleteFunc(differs, func(name string) bool { return name == "log_level" })
	if len(differs) > 0 {
		log.Warn("settings have changed that need a restart", "settings", strings.Join(differs, " "), "restart", restart)
	}
}

func tell(log hclog.Logger, err error) {
	if err != nil {
		log.Warn("systemd is not told", "error", err)
	}
}
