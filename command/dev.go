package command

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/hashicorp/go-hclog"

	"github.com/kerege/kerege/agent/envoy"
	"github.com/kerege/kerege/config"
)

// devFlags are the options of kerege dev.
type devFlags struct {
	data, envoy, level string
}

func devCommand() Command {
	var o devFlags
	return Command{
		Name:     "dev",
		Synopsis: "A whole mesh on this machine, for a laptop: no root, nothing captured",
		Args:     "[DIR]",
		Long: `Runs control plane, agent and one Envoy for each instance of the mesh files in DIR, all
on loopback, as any user. Nothing is captured: an application calls a service at a port
of 127.0.0.1, from the table that is printed, and goes on listening on its own port,
which its instance block says with address = "127.0.0.1". At most 6 instances get an
Envoy; the others are named.

The files are applied when they change. Files with a mistake are refused, with the
place, and what was in force goes on. Without DIR a sample runs: web calls api, of which
a tenth of the calls reach v2.

It stays until Ctrl-C. Nothing of it is left then, nor when it is killed, unless -data keeps
CA, members and logs for the next time. It is no control plane for another host: see kerege
server.`,
		Example: "kerege dev ./mesh",
		Flags: func(f *flag.FlagSet) {
			f.StringVar(&o.data, "data", "", "A `directory` that keeps the mesh's state. Left out: a new one, removed at the end.")
			f.StringVar(&o.envoy, "envoy", "", "Envoy's `program`. Left out: $ENVOY, then PATH, then the one of make tools.")
			f.StringVar(&o.level, "log-level", "error", "The `level` of the log on standard error: trace, debug, info, warn, error or off. Envoys log there too below warn, else into files.")
		},
		Run: func(c *Call) error {
			if len(c.Args) > 1 {
				return fmt.Errorf("one directory of mesh files, or none for the sample")
			}
			if hclog.LevelFromString(o.level) == hclog.NoLevel {
				return fmt.Errorf("-log-level %s is no level; say trace, debug, info, warn, error or off", o.level)
			}
			return runDev(c, o)
		},
	}
}

// runDev prepares what can be wrong before anything runs, then runs it.
func runDev(c *Call, o devFlags) (err error) {
	program, err := devEnvoy(o.envoy)
	if err != nil {
		return err
	}
	if err := envoy.Check(c.ctx, program); err != nil {
		return err
	}
	for _, dir := range sweepRuns(tempParent()) {
		fmt.Fprintf(c.err, "A kerege dev before this one was killed; what it left in %s is removed.\n", dir)
	}
	run, unlock, err := newRunDir()
	if err != nil {
		return err
	}
	defer unlock()
	stopGuard, err := startDevGuard(run)
	if err != nil {
		return errors.Join(err, os.RemoveAll(run))
	}
	defer stopGuard()
	defer func() {
		if e := os.RemoveAll(run); e != nil && err == nil {
			err = fmt.Errorf("removing what was only for this run: %w", e)
		}
	}()
	d := &devSession{call: c, flags: o, envoy: program, run: run, data: o.data, ports: newDevPorts(), log: devLogger(o.level, c.err)}
	if d.data == "" {
		d.data = filepath.Join(run, "data")
	}
	d.layouts = newDevLayouts(d.ports)
	if len(c.Args) == 1 {
		d.dir = c.Args[0]
	} else {
		if d.sample, err = openSample(d.ports); err != nil {
			return err
		}
		defer d.sample.close()
		d.dir = filepath.Join(run, "mesh")
		if err := d.sample.write(d.dir); err != nil {
			return err
		}
	}
	if err := d.checkFiles(); err != nil {
		return err
	}
	err = d.serve(c.ctx)
	if c.ctx.Err() != nil { // Ctrl-C is how it ends; what was cut short by it is no news
		if err != nil {
			d.log.Debug("ended", "error", err)
		}
		return nil
	}
	return err
}

// devEnvoy is Envoy as kerege envoy finds it, else the one that `make tools` got.
func devEnvoy(flag string) (string, error) {
	program, err := envoy.FindEnvoy(flag)
	if err == nil {
		return program, nil
	}
	cache, e := os.UserCacheDir()
	if flag == "" && os.Getenv("ENVOY") == "" && e == nil {
		got, _ := filepath.Glob(filepath.Join(cache, "kerege", "parts", "envoy-*", "lib", "python3*", "site-packages", "envoy", "_bin", "envoy"))
		if len(got) > 0 {
			return got[len(got)-1], nil
		}
	}
	return "", fmt.Errorf("%w\n`make tools` in a clone of kerege gets one, which is found without a flag; a release of github.com/envoyproxy/envoy will do, too", err)
}

// checkFiles says what is wrong with the files before anything is started.
func (d *devSession) checkFiles() error {
	m, diags := config.Load(d.dir)
	if m != nil {
		diags = append(diags, m.Unsupported...)
	}
	if diags.HasErrors() {
		if err := diags.WriteText(d.call.err, d.call.color); err != nil {
			return err
		}
		return exit{code: exitError}
	}
	d.layouts.part(m)
	l, _ := d.layouts.get(m.Hash)
	if len(l.places) == 0 {
		return fmt.Errorf("no instance in %s is on this machine, so there is nothing to run\nWrite where the application listens into its service block:\n\n    instance \"one\" {\n      address = \"127.0.0.1\"\n      port    = 8080\n    }", d.dir)
	}
	return nil
}

// shortTempDir is for sockets, whose paths the kernel holds to 107 bytes.
func shortTempDir() (string, error) {
	dir, err := os.MkdirTemp(tempParent(), devPrefix)
	if err != nil {
		return "", fmt.Errorf("making a folder for this run: %w", err)
	}
	return dir, nil
}

func tempParent() string {
	if parent := os.TempDir(); len(parent) <= 20 {
		return parent
	}
	return "/tmp"
}

// devLogger leaves out what is printed in full anyway.
func devLogger(level string, w io.Writer) hclog.Logger {
	quiet := hclog.LevelFromString(level) >= hclog.Warn
	return hclog.New(&hclog.LoggerOptions{Name: "kerege", Level: hclog.LevelFromString(level), Output: w,
		Exclude: func(_ hclog.Level, message string, _ ...any) bool { return quiet && message == refusedMessage }})
}

// refusedMessage is how registry/file logs refused files.
const refusedMessage = "the mesh's files are refused; the generation before goes on"
