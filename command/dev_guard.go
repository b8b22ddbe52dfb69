package command

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// devGuardCommand is started by kerege dev and outlives it by a moment.
func devGuardCommand() Command {
	return Command{
		Name:     "dev-guard",
		Synopsis: "Clean up after a kerege dev that was killed (kerege dev starts this)",
		Long: `Reads the folder of one run from stdin and waits for stdin to end, which it does when
kerege dev is no more, however it ended. What is then left of the run, its Envoys and
its folder, is removed. Nobody needs to run it by hand.`,
		Example: "kerege dev-guard",
		Run: func(c *Call) error {
			// Ctrl-C is for kerege dev, whose terminal this shares; a stop of this
			// process alone is not meant by anybody.
			signal.Ignore(os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
			in := bufio.NewReader(c.in)
			run, err := in.ReadString('\n')
			if err != nil {
				return fmt.Errorf("reading which run is guarded: %w", err)
			}
			if _, err := io.Copy(io.Discard, in); err != nil {
				return fmt.Errorf("waiting for the end of kerege dev: %w", err)
			}
			return clearRun(strings.TrimSuffix(run, "\n"))
		},
	}
}

// startDevGuard starts the process that cleans up when this one cannot. The
// returned function tells it that all is done, and waits for its end.
func startDevGuard(run string) (stop func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("finding this program: %w", err)
	}
	cmd := exec.Command(self, "dev-guard")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return nil, fmt.Errorf("starting the guard of this run: %w", err)
	}
	if _, err := io.WriteString(in, run+"\n"); err != nil {
		return nil, errors.Join(fmt.Errorf("telling the guard of this run: %w", err), in.Close(), cmd.Wait())
	}
	return func() {
		_ = in.Close()
		_ = cmd.Wait() // it has nothing to say: what it could not remove, the next run tries again
	}, nil
}

const devPrefix = "kerege-dev-"

// newRunDir makes the folder of a run, locked as long as this process lives.
func newRunDir() (dir string, unlock func(), err error) {
	if dir, err = shortTempDir(); err != nil {
		return "", nil, err
	}
	if unlock, err = lockRun(dir); err != nil {
		return "", nil, errors.Join(err, os.RemoveAll(dir))
	}
	return dir, unlock, nil
}

// lockRun takes a run's lock, unless its process lives.
func lockRun(dir string) (unlock func(), err error) {
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the folder of a run: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return nil, errors.Join(fmt.Errorf("locking the folder of a run: %w", err), lock.Close())
	}
	return func() { lock.Close() }, nil
}

// sweepRuns removes what runs of this user have left that nobody could clean up
// after: their lock is free. It returns the folders.
func sweepRuns(parent string) (swept []string) {
	dirs, _ := filepath.Glob(filepath.Join(parent, devPrefix+"*"))
	for _, dir := range dirs {
		info, err := os.Lstat(dir)
		if err != nil || !info.IsDir() {
			continue
		}
		if owner, ok := info.Sys().(*syscall.Stat_t); !ok || int(owner.Uid) != os.Getuid() {
			continue
		}
		made, err := os.Stat(filepath.Join(dir, "lock"))
		if err != nil && time.Since(info.ModTime()) < time.Minute || err == nil && time.Since(made.ModTime()) < 100*time.Millisecond {
			continue // it is being made
		}
		unlock, err := lockRun(dir)
		if err != nil {
			continue // it runs
		}
		unlock()
		if clearRun(dir) == nil {
			swept = append(swept, dir)
		}
	}
	return swept
}

// clearRun ends the Envoys of a run and removes its folder.
func clearRun(dir string) error {
	if !strings.HasPrefix(filepath.Base(dir), devPrefix) {
		return fmt.Errorf("cleaning up: %q is no folder of a run", dir)
	}
	for range 20 { // 2 s, of which Envoy needs a few milliseconds
		left := envoysOf(dir)
		if len(left) == 0 {
			break
		}
		for _, pid := range left {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("ending an Envoy of a run that is over: %w", err)
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("removing the folder of a run: %w", err)
	}
	return nil
}

// envoysOf lists the processes that were started with a bootstrap of a run.
func envoysOf(dir string) (pids []int) {
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, path := range all {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		args := strings.Split(string(text), "\x00")
		if len(args) < 3 || args[1] != "-c" || filepath.Base(args[2]) != "bootstrap.json" || !strings.HasPrefix(args[2], dir+"/") {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}
