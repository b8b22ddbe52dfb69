package envoy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
)

// Options is how an Envoy is run.
type Options struct {
	Path        string // of Envoy's own program, checked with Check
	Dir         string // the proxy's runtime folder, which exists
	Bootstrap   []byte
	Concurrency int           // worker threads; 0: one a core
	LogLevel    string        // "": warning
	Drain       time.Duration // how long calls in flight may take once it stops; 0: 30 s
	Output      io.Writer     // Envoy's log; nil: our standard error
	Log         hclog.Logger  // nil: none
	Ready       func()        // called each time Envoy has become ready
	Leaving     func(context.Context)
	// Leaving, if not nil, is called before the drain: it takes the instance out of
	// its callers' sight and returns when that is done, or its context is.
}

// Launcher runs one Envoy as a child, in a process group of its own.
type Launcher struct {
	o     Options
	admin *Admin
}

// When an Envoy that dies is given up on, and how long between two starts.
const (
	maxCrashes   = 5
	crashWindow  = time.Minute
	firstBackoff = 250 * time.Millisecond
	pollEvery    = 50 * time.Millisecond
	killAfter    = 5 * time.Second
)

// NewLauncher returns a Launcher that runs nothing yet.
func NewLauncher(o Options) *Launcher {
	if o.Log == nil {
		o.Log = hclog.NewNullLogger()
	}
	if o.Output == nil {
		o.Output = os.Stderr
	}
	if o.LogLevel == "" {
		o.LogLevel = "warning"
	}
	if o.Drain == 0 {
		o.Drain = 30 * time.Second
	}
	return &Launcher{o: o, admin: NewAdmin(AdminSocket(o.Dir))}
}

// Admin is the client for the running Envoy.
func (l *Launcher) Admin() *Admin { return l.admin }

// folderWithin is how long an agent may take to give the folder to this user: it
// has just told who its proxy's user is, or is opening the sockets anew.
const folderWithin = 5 * time.Second

// writeBootstrap replaces the file, for the one that is there may be of the user
// that the proxy ran as before, whose file only the folder lets go of.
func (l *Launcher) writeBootstrap(ctx context.Context, path string) error {
	end := time.Now().Add(folderWithin)
	for {
		err := os.WriteFile(path+".new", l.o.Bootstrap, 0o600)
		if err == nil {
			err = os.Rename(path+".new", path)
		}
		if err == nil || !errors.Is(err, fs.ErrPermission) || time.Now().After(end) {
			return err
		}
		_ = os.Remove(path + ".new") // of another user, too
		select {
		case <-ctx.Done():
			return err
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Run starts Envoy, and again when it dies, until ctx is done; then it drains and
// stops it and returns nil. It returns the cause when Envoy died maxCrashes times
// within crashWindow, or could not be started at all.
func (l *Launcher) Run(ctx context.Context) error {
	path := filepath.Join(l.o.Dir, "bootstrap.json")
	if err := l.writeBootstrap(ctx, path); err != nil {
		return fmt.Errorf("writing Envoy's bootstrap: %w", err)
	}
	var crashes []time.Time
	for {
		err := l.once(ctx, path)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, errStart) {
			return err
		}
		now := time.Now()
		crashes = append(crashes, now)
		for len(crashes) > 0 && now.Sub(crashes[0]) > crashWindow {
			crashes = crashes[1:]
		}
		if len(crashes) >= maxCrashes {
			return fmt.Errorf("running Envoy: it died %d times within a minute, the last time: %w", len(crashes), err)
		}
		wait := firstBackoff << (len(crashes) - 1)
		l.o.Log.Error("Envoy died, starting it again", "cause", err, "in", wait)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		}
	}
}

var errStart = errors.New("starting Envoy")

func (l *Launcher) args(bootstrap string) []string {
	args := []string{
		"-c", bootstrap,
		"--log-level", l.o.LogLevel,
		// Nothing of another Envoy of this host is shared, whatever namespace it is in.
		"--disable-hot-restart",
		// Clients are told at once to go elsewhere; a listener that is replaced keeps
		// its connections as long as Envoy lets it.
		"--drain-strategy", "immediate",
		"--drain-time-s", "600",
		"--file-flush-interval-msec", "1000", // denied calls are in the log a second later
	}
	if l.o.Concurrency > 0 {
		args = append(args, "--concurrency", strconv.Itoa(l.o.Concurrency))
	}
	return args
}

// once runs one Envoy to its end. It returns why it ended.
func (l *Launcher) once(ctx context.Context, bootstrap string) error {
	if err := os.Remove(AdminSocket(l.o.Dir)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: removing the admin socket of the one before: %w", errStart, err)
	}
	cmd := exec.Command(l.o.Path, l.args(bootstrap)...)
	cmd.Stdout, cmd.Stderr = l.o.Output, l.o.Output
	cmd.SysProcAttr = attributes()
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("%w: %w", errStart, err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()

	watching, stop := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() { defer close(watched); l.watch(watching) }()
	defer func() { stop(); <-watched }()

	select {
	case err := <-ended:
		return died(cmd, err)
	case <-ctx.Done():
	}
	l.drain(ended)
	return l.stop(cmd, ended)
}

// watch waits for readiness and tells.
func (l *Launcher) watch(ctx context.Context) {
	started, told := time.Now(), time.Now()
	for {
		err := l.admin.Ready(ctx)
		if err == nil {
			l.o.Log.Info("Envoy is ready", "after", time.Since(started).Round(time.Millisecond))
			if l.o.Ready != nil {
				l.o.Ready()
			}
			return
		}
		if time.Since(told) > 10*time.Second {
			told = time.Now()
			l.o.Log.Warn("Envoy is not ready yet", "because", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pollEvery):
		}
	}
}

// drain lets calls in flight end. Envoy goes on accepting, for callers who have not
// heard yet, and asks each client at its answer to connect elsewhere. It returns when none is left, the time is up,
// or Envoy has ended by itself.
func (l *Launcher) drain(ended chan error) {
	ctx, cancel := context.WithTimeout(context.Background(), l.o.Drain)
	defer cancel()
	if l.o.Leaving != nil {
		l.o.Leaving(ctx)
	}
	if err := l.admin.Drain(ctx); err != nil {
		l.o.Log.Warn("Envoy could not be asked to drain", "error", err)
		return
	}
	for quiet := 0; ; {
		n, err := l.admin.InFlight(ctx)
		if err == nil && n == 0 {
			if quiet++; quiet == 2 { // once more: the last answer may still be on its way out
				return
			}
		} else {
			quiet = 0
		}
		select {
		case err := <-ended:
			ended <- err
			return
		case <-ctx.Done():
			l.o.Log.Warn("Envoy is stopped with calls in flight", "calls", n, "after", l.o.Drain)
			return
		case <-time.After(pollEvery):
		}
	}
}

func (l *Launcher) stop(cmd *exec.Cmd, ended chan error) error {
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		l.o.Log.Warn("Envoy could not be told to stop", "error", err)
	}
	select {
	case err := <-ended:
		return died(cmd, err)
	case <-time.After(killAfter):
	}
	if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		l.o.Log.Warn("Envoy could not be killed", "error", err)
	}
	return died(cmd, <-ended)
}

func died(cmd *exec.Cmd, err error) error {
	if err != nil {
		return fmt.Errorf("running Envoy: %w", err)
	}
	return fmt.Errorf("running Envoy: it ended: %s", cmd.ProcessState)
}
