package lab

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Proc is a program running on a host.
type Proc struct {
	Name string
	Log  string // file with its output
	cmd  *exec.Cmd
	done chan struct{}
	err  error
}

// Spec says how a program is started on a host.
type Spec struct {
	Name string   // names its log; unique on the host
	UID  int      // the user it runs as; 0 is root
	Env  []string // added to PATH and HOME
	Args []string
	In   io.Reader
}

// Start runs a program in the host's network namespace with the host's own
// resolv.conf, in a process group of its own.
func (h *Host) Start(s Spec) (*Proc, error) {
	log := filepath.Join(h.Dir, s.Name+".log")
	f, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, fmt.Errorf("starting %s on %s: %w", s.Name, h.Name, err)
	}
	defer f.Close()
	cmd := h.command(context.Background(), s)
	cmd.Stdout, cmd.Stderr = f, f
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := startLocked(cmd); err != nil {
		return nil, fmt.Errorf("starting %s on %s: %w", s.Name, h.Name, err)
	}
	p := &Proc{Name: h.Name + "/" + s.Name, Log: log, cmd: cmd, done: make(chan struct{})}
	go func() { p.err = cmd.Wait(); close(p.done) }()
	h.lab.mu.Lock()
	h.lab.procs = append(h.lab.procs, p)
	h.lab.mu.Unlock()
	return p, nil
}

// starter is one goroutine on one thread that lives as long as the program:
// Pdeathsig fires when the thread that forked dies, not the process.
var (
	starterOnce sync.Once
	starter     chan func()
)

func startLocked(cmd *exec.Cmd) error {
	starterOnce.Do(func() {
		starter = make(chan func())
		go runStarter(starter)
	})
	errc := make(chan error, 1)
	starter <- func() { errc <- cmd.Start() }
	return <-errc
}

// Talk is a program that answers on stdout to lines on stdin.
type Talk struct {
	*Proc
	in  io.WriteCloser
	out *bufio.Reader
}

// Talk starts a program to converse with.
func (h *Host) Talk(s Spec) (*Talk, error) {
	cmd := h.command(context.Background(), s)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("starting %s on %s: %w", s.Name, h.Name, err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("starting %s on %s: %w", s.Name, h.Name, err)
	}
	cmd.Stderr = os.Stderr
	if err := startLocked(cmd); err != nil {
		return nil, fmt.Errorf("starting %s on %s: %w", s.Name, h.Name, err)
	}
	p := &Proc{Name: h.Name + "/" + s.Name, cmd: cmd, done: make(chan struct{})}
	go func() { p.err = cmd.Wait(); close(p.done) }()
	h.lab.mu.Lock()
	h.lab.procs = append(h.lab.procs, p)
	h.lab.mu.Unlock()
	return &Talk{Proc: p, in: in, out: bufio.NewReader(out)}, nil
}

// Call says a line and returns the line that answers.
func (t *Talk) Call(line string) (string, error) {
	if _, err := fmt.Fprintln(t.in, line); err != nil {
		return "", fmt.Errorf("talking to %s: %w", t.Name, err)
	}
	got, err := t.out.ReadString('\n')
	if err != nil {
		return got, fmt.Errorf("listening to %s: %w", t.Name, err)
	}
	return strings.TrimSpace(got), nil
}

// Close ends the program.
func (t *Talk) Close() {
	t.in.Close()
	t.Kill()
}

// Output runs a program on the host to its end and returns what it printed.
// The error, if any, carries stderr.
func (h *Host) Output(ctx context.Context, s Spec) (string, error) {
	cmd := h.command(ctx, s)
	var out, errOut bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.Stdin = &out, &errOut, s.In
	if err := cmd.Run(); err != nil {
		return out.String(), fmt.Errorf("%v on %s: %w: %s", s.Args, h.Name, err, bytes.TrimSpace(errOut.Bytes()))
	}
	return out.String(), nil
}

// Combined is Output with stderr in its place, as a terminal shows it, and the exit code.
func (h *Host) Combined(ctx context.Context, s Spec) (string, int) {
	cmd := h.command(ctx, s)
	cmd.Stdin = s.In
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		return err.Error(), -1
	}
	return string(out), cmd.ProcessState.ExitCode()
}

func (h *Host) command(ctx context.Context, s Spec) *exec.Cmd {
	// sh binds the host's resolv.conf in a mount namespace that dies with the program.
	const script = `mount --bind "$0" /etc/resolv.conf && exec "$@"`
	args := []string{"--net=/run/netns/" + h.NS, "unshare", "-m", "sh", "-c", script, h.resolv}
	if s.UID != 0 {
		id := strconv.Itoa(s.UID)
		args = append(args, "setpriv", "--reuid", id, "--regid", id, "--clear-groups")
	}
	cmd := exec.CommandContext(ctx, "nsenter", append(args, s.Args...)...)
	cmd.Dir = h.Dir
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + h.Dir}, s.Env...)
	return cmd
}

// Pid is the program's own process id (nsenter, unshare, sh and setpriv exec it).
func (p *Proc) Pid() int { return p.cmd.Process.Pid }

// Signal sends to the program alone.
func (p *Proc) Signal(s syscall.Signal) error { return p.cmd.Process.Signal(s) }

// Kill ends the program and all its descendants at once and waits for it.
func (p *Proc) Kill() {
	tree := descendants(p.cmd.Process.Pid)
	syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	for _, pid := range tree {
		syscall.Kill(pid, syscall.SIGKILL)
	}
	<-p.done
}

// KillAlone ends the program and leaves what it started to itself, as the kernel
// does to a program that is out of memory.
func (p *Proc) KillAlone() {
	syscall.Kill(p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.done
}

// descendants lists a process's children, and theirs.
func descendants(pid int) (all []int) {
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return nil
	}
	for _, file := range tasks {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it ended meanwhile
		}
		for _, field := range strings.Fields(string(text)) {
			if child, err := strconv.Atoi(field); err == nil {
				all = append(append(all, child), descendants(child)...)
			}
		}
	}
	return all
}

// Stop asks with SIGTERM, and kills after the given time.
func (p *Proc) Stop(patience time.Duration) error {
	p.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
		return nil
	case <-time.After(patience):
		p.Kill()
		return fmt.Errorf("stopping %s: still running after %s; killed", p.Name, patience)
	}
}

// Done is closed when the program has ended; Err then says how.
func (p *Proc) Done() <-chan struct{} { return p.done }

// Err is how the program ended; only after Done.
func (p *Proc) Err() error { return p.err }

// Tail is the end of the program's output, for a failure's message.
func (p *Proc) Tail(bytesMax int) string {
	b, err := os.ReadFile(p.Log)
	if err != nil {
		return err.Error()
	}
	return string(b[max(0, len(b)-bytesMax):])
}
