package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// order and answer are the lines that the parent and its processes exchange.
type order struct {
	Add      bool `json:",omitempty"` // server: add instance N of Service
	Remove   bool `json:",omitempty"` // server: remove it again
	Service  int
	N        int
	Expect   bool          `json:",omitempty"` // client: wait until Count streams have seen instance N
	Count    int           `json:",omitempty"`
	Patience time.Duration `json:",omitempty"`
	Totals   bool          `json:",omitempty"` // client: say the counters
	Memory   bool          `json:",omitempty"` // server: collect the garbage and say what is left
}

type answer struct {
	Addr     string        `json:",omitempty"` // server: where it listens
	TLS      string        `json:",omitempty"` // server: the folder with its nodes' certificates
	Heap     int64         `json:",omitempty"` // server: live heap, bytes
	Stacks   int64         `json:",omitempty"` // server: of goroutines, bytes
	At       int64         `json:",omitempty"` // server: when the change began, Unix ns
	Armed    bool          `json:",omitempty"` // client: it is watching for what was expected
	Seen     []int64       `json:",omitempty"` // client: when each stream had it, Unix ns
	Took     time.Duration `json:",omitempty"` // client: until all streams held all
	Bytes    int64         // client: of all messages so far
	Messages int64
	Problems []string `json:",omitempty"`
	Err      string   `json:",omitempty"`
}

// child is a process of the benchmark.
type child struct {
	name string
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Scanner
}

// spawn starts this program again in another role.
func spawn(name string, args ...string) (*child, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	cmd := exec.Command(self, args...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", name, err)
	}
	c := &child{name: name, cmd: cmd, in: in, out: bufio.NewScanner(out)}
	c.out.Buffer(nil, 16<<20)
	return c, nil
}

func (c *child) tell(o order) error {
	b, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("telling %s: %w", c.name, err)
	}
	if _, err = c.in.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("telling %s: %w", c.name, err)
	}
	return nil
}

func (c *child) hear() (answer, error) {
	var a answer
	if !c.out.Scan() {
		return a, fmt.Errorf("%s ended: %w", c.name, errors.Join(c.out.Err(), io.EOF))
	}
	if err := json.Unmarshal(c.out.Bytes(), &a); err != nil {
		return a, fmt.Errorf("reading what %s says: %w", c.name, err)
	}
	if a.Err != "" {
		return a, fmt.Errorf("%s: %s", c.name, a.Err)
	}
	return a, nil
}

func (c *child) ask(o order) (answer, error) {
	if err := c.tell(o); err != nil {
		return answer{}, err
	}
	return c.hear()
}

// stop ends the process; it leaves when its input is closed.
func (c *child) stop() {
	c.in.Close()
	done := make(chan struct{})
	go func() { defer close(done); _ = c.cmd.Wait() }()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		_ = c.cmd.Process.Kill()
		<-done
	}
}

// cpu is the CPU time of a process so far, from its own clock.
func cpu(pid int) time.Duration {
	var ts unix.Timespec
	if unix.ClockGettime(int32(^pid<<3|2), &ts) != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

// rss is the resident memory of a process in bytes.
func rss(pid int) int64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(b)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			return n << 10
		}
	}
	return 0
}

// serve reads orders until its input ends and writes the answers.
func serveOrders(handle func(order) answer) {
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		var o order
		if err := json.Unmarshal(in.Bytes(), &o); err != nil {
			say(answer{Err: err.Error()})
			continue
		}
		if o.Memory {
			runtime.GC()
			var m runtime.MemStats
			runtime.ReadMemStats(&m)
			say(answer{Heap: int64(m.HeapAlloc), Stacks: int64(m.StackInuse)})
			continue
		}
		say(handle(o))
	}
}

func say(a answer) {
	b, err := json.Marshal(a)
	if err != nil {
		b = []byte(`{"Err":"an answer that is no JSON"}`)
	}
	os.Stdout.Write(append(b, '\n'))
}
