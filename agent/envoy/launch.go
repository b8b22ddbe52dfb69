package envoy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
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
	Renew func(context.Context) (Fresh, error)
	// Renew is asked what to run at each Reload. Nil: there are no reloads, and
	// Envoy shares nothing with another one.
}

// Fresh is what a new Envoy is started with.
type Fresh struct {
	Path      string // as in Options
	Bootstrap []byte
}

// Launcher runs one Envoy as a child, in a process group of its own; two of them
// while one takes over from the other.
type Launcher struct {
	o        Options
	admin    *Admin
	requests chan request
	over     chan struct{} // closed when Run returns
	region   *region       // nil: no reloads
	noRegion error         // why not
	shm      string
	running  Fresh
	retiring sync.WaitGroup
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
	return &Launcher{o: o, admin: NewAdmin(AdminSocket(o.Dir)), requests: make(chan request), over: make(chan struct{}),
		shm: sharedMemory, running: Fresh{o.Path, o.Bootstrap}}
}

// Admin is the client for the running Envoy.
func (l *Launcher) Admin() *Admin { return l.admin }

func (l *Launcher) bootstrapFile() string { return filepath.Join(l.o.Dir, bootstrapName) }

const bootstrapName = "bootstrap.json"

// folderWithin is how long an agent may take to give the folder to this user: it
// has just told who its proxy's user is, or is opening the sockets anew.
const folderWithin = 5 * time.Second

// writeBootstrap replaces the file, for the one that is there may be of the user
// that the proxy ran as before, whose file only the folder lets go of.
func (l *Launcher) writeBootstrap(ctx context.Context, text []byte) error {
	path, end := l.bootstrapFile(), time.Now().Add(folderWithin)
	for {
		err := os.WriteFile(path+".new", text, 0o600)
		if err == nil {
			err = os.Rename(path+".new", path)
		}
		if err == nil {
			return nil
		}
		if !errors.Is(err, fs.ErrPermission) || time.Now().After(end) {
			return fmt.Errorf("writing Envoy's bootstrap: %w", err)
		}
		_ = os.Remove(path + ".new") // of another user, too
		select {
		case <-ctx.Done():
			return fmt.Errorf("writing Envoy's bootstrap: %w", err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Run starts Envoy, and again when it dies, until ctx is done; then it drains and
// stops it and returns nil. It returns the cause when Envoy died maxCrashes times
// within crashWindow, or could not be started at all. It is called once.
func (l *Launcher) Run(ctx context.Context) error {
	defer close(l.over)
	if err := l.writeBootstrap(ctx, l.running.Bootstrap); err != nil {
		return err
	}
	if l.o.Renew != nil {
		stop, err := l.prepare()
		if err != nil {
			return err
		}
		defer stop()
	}
	var crashes []time.Time
	for {
		err := l.life(ctx)
		l.retiring.Wait()
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

func (l *Launcher) args(epoch int) []string {
	args := []string{
		"-c", l.bootstrapFile(),
		"--log-level", l.o.LogLevel,
		// Clients are told at once to go elsewhere; a listener that is replaced keeps
		// its connections as long as Envoy lets it.
		"--drain-strategy", "immediate",
		"--drain-time-s", "600",
		"--file-flush-interval-msec", "1000", // denied calls are in the log a second later
	}
	if l.region == nil {
		// Nothing of another Envoy of this host is shared, whatever namespace it is in.
		args = append(args, "--disable-hot-restart")
	} else {
		args = append(append(args, l.region.args(epoch)...), "--parent-shutdown-time-s", strconv.Itoa(int(l.grace().Seconds())))
	}
	if l.o.Concurrency > 0 {
		args = append(args, "--concurrency", strconv.Itoa(l.o.Concurrency))
	}
	return args
}

// life is that of one Envoy and of those that take over from it, until one dies
// or ctx is done. It returns why it ended; retiring Envoys may end after it.
func (l *Launcher) life(ctx context.Context) error {
	if err := os.Remove(AdminSocket(l.o.Dir)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: removing the admin socket of the one before: %w", errStart, err)
	}
	now, err := begin(l.running.Path, l.o.Dir, l.args(0), 0, l.o.Output)
	if err != nil {
		return err
	}
	ready, stop := l.watch(ctx)
	defer func() { stop() }()
	var old *leaver
	for {
		var idle, gone <-chan struct{}
		if old != nil {
			idle, gone = old.idle, old.done
		}
		asked := l.requests
		if ready != nil || old != nil && !closed(idle) {
			asked = nil // none from one that has nothing to hand over, or of which another one is not done
		} else {
			idle = nil
		}
		select {
		case <-now.done:
			if old != nil {
				// It holds the listening sockets open and does not accept.
				l.complain(old.kill())
			}
			return now.err
		case <-ready:
			ready = nil
		case <-idle:
		case <-gone:
			old = nil
		case r := <-asked:
			all := l.gather(r)
			next, err := l.succeed(ctx, now)
			if err == nil {
				stop()
				ready, stop = l.watch(ctx)
				old, now = l.retire(now, next), next
			}
			for _, r := range all {
				r.result <- err
			}
		case <-ctx.Done():
			l.leave(now, old)
			return now.err
		}
	}
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// watch waits for readiness and tells. The channel is closed when Envoy is ready,
// or when stop was called, which waits for it.
func (l *Launcher) watch(ctx context.Context) (ready <-chan struct{}, stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.awaitReady(ctx)
	}()
	return done, func() { cancel(); <-done }
}

func (l *Launcher) awaitReady(ctx context.Context) {
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

func (l *Launcher) complain(err error) {
	if err != nil {
		l.o.Log.Warn("an Envoy does not end as it should", "error", err)
	}
}
