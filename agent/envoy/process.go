package envoy

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	goruntime "runtime"
	"syscall"
	"time"
)

// process is one running Envoy.
type process struct {
	cmd   *exec.Cmd
	epoch int
	done  chan struct{} // closed when it has ended
	err   error         // why, once done is closed
}

// begin starts an Envoy whose working folder is dir. The kernel ends it with the
// thread that started it, so that no Envoy is left over when kerege is killed; an
// Envoy that can take over asks for that by itself. The thread is kept for it.
func begin(path, dir string, args []string, epoch int, out io.Writer) (*process, error) {
	cmd := exec.Command(path, args...)
	cmd.Dir = dir
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = attributes()
	p := &process{cmd: cmd, epoch: epoch, done: make(chan struct{})}
	started := make(chan error)
	go func() {
		goruntime.LockOSThread() // and never let go: the thread ends with this goroutine
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		started <- nil
		err := cmd.Wait()
		if err == nil {
			err = fmt.Errorf("it ended: %s", cmd.ProcessState)
		}
		p.err = fmt.Errorf("running Envoy: %w", err)
		close(p.done)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("%w: %w", errStart, err)
	}
	return p, nil
}

func (p *process) pid() int { return p.cmd.Process.Pid }

// kill ends it at once. One that is told to stop takes the Envoy before it along;
// one that is killed does not.
func (p *process) kill() error {
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("killing Envoy: %w", err)
	}
	<-p.done
	return nil
}

// stop ends it in order, and after killAfter in any case.
func (p *process) stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("telling Envoy to stop: %w", err)
	}
	select {
	case <-p.done:
		return nil
	case <-time.After(killAfter):
		return p.kill()
	}
}
