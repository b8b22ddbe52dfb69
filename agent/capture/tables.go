package capture

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/coreos/go-iptables/iptables"
)

// Tables is one table of one family in one network namespace.
type Tables interface {
	Listing() ([]string, error) // as iptables -S prints it
	NewChain(chain string) error
	ClearChain(chain string) error
	Discard(chains ...string) error // empties and deletes chains that only each other lead to, at once
	Append(chain string, spec ...string) error
	Insert(chain string, pos int, spec ...string) error
	Replace(chain string, pos int, spec ...string) error
	Delete(chain string, spec ...string) error
	First(chain string, spec ...string) error // moves a rule to the head of its chain, at once
}

// Pending says that another program holds the tables: nothing was half done,
// and the same call is worth another try.
type Pending struct{ Err error }

func (p *Pending) Error() string {
	return "capture pending: the tables are held by another program: " + p.Err.Error()
}
func (p *Pending) Unwrap() error { return p.Err }

// Wait is how long one command waits for the tables, and how often it tries again.
type Wait struct {
	Lock  time.Duration // rounded up to whole seconds; 0 is 5 s
	Tries int           // after the first; 0 is 5, -1 none
}

func (w Wait) seconds() int {
	if w.Lock <= 0 {
		return 5
	}
	return int((w.Lock + time.Second - 1) / time.Second)
}

func (w Wait) tries() int {
	switch {
	case w.Tries < 0:
		return 0
	case w.Tries == 0:
		return 5
	}
	return w.Tries
}

// kernel is Tables on the real thing, by the iptables commands. It works in the
// network namespace of the calling thread.
type kernel struct {
	ctx   context.Context
	ipt   *iptables.IPTables
	path  string
	table string
	wait  Wait
}

// tools are iptables commands whose version is known: to ask again would cost
// each look a process.
type tools struct {
	mu    sync.Mutex
	known map[string]*iptables.IPTables
}

func (t *tools) kernel(ctx context.Context, family Family, path, table string, wait Wait) (*kernel, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	ipt := t.known[path]
	if ipt == nil {
		protocol := iptables.ProtocolIPv4
		if family == V6 {
			protocol = iptables.ProtocolIPv6
		}
		var err error
		ipt, err = iptables.New(iptables.IPFamily(protocol), iptables.Timeout(wait.seconds()), iptables.Path(path))
		if err != nil {
			return nil, fmt.Errorf("finding %s: %w", path, err)
		}
		t.known[path] = ipt
	}
	return &kernel{ctx: ctx, ipt: ipt, path: path, table: table, wait: wait}, nil
}

func (k *kernel) Listing() ([]string, error) {
	out, err := k.run("-S")
	if err != nil {
		return nil, err
	}
	return strings.Split(strings.TrimSpace(out), "\n"), nil
}

// run is for what go-iptables has no call for: to list a whole table, and to
// empty a chain without trying to make it first.
func (k *kernel) run(args ...string) (string, error) {
	var out []byte
	err := k.retry(func() error {
		cmd := exec.CommandContext(k.ctx, k.path, slices.Concat([]string{"-t", k.table}, args, []string{"--wait", strconv.Itoa(k.wait.seconds())})...)
		cmd.WaitDelay = time.Second
		var err error
		out, err = cmd.Output()
		return said(cmd, err)
	})
	return string(out), err
}

func (k *kernel) NewChain(chain string) error {
	return k.retry(func() error { return k.ipt.NewChain(k.table, chain) })
}

func (k *kernel) ClearChain(chain string) error {
	_, err := k.run("-F", chain)
	return err
}

// Discard is one transaction, for nft takes a grace period of the kernel (some
// 15 ms) for each command that deletes.
func (k *kernel) Discard(chains ...string) error {
	if len(chains) == 0 {
		return nil
	}
	var lines []string
	for _, option := range []string{"-F", "-X"} {
		for _, c := range chains {
			lines = append(lines, option+" "+c)
		}
	}
	return k.transaction(lines...)
}

func (k *kernel) First(chain string, spec ...string) error {
	rule := strings.Join(spec, " ")
	return k.transaction("-D "+chain+" "+rule, "-I "+chain+" 1 "+rule)
}

// transaction makes all of the changes at once, or none.
func (k *kernel) transaction(lines ...string) error {
	text := "*" + k.table + "\n" + strings.Join(lines, "\n") + "\nCOMMIT\n"
	return k.retry(func() error {
		cmd := exec.CommandContext(k.ctx, k.path+"-restore", "--noflush", "--wait", strconv.Itoa(k.wait.seconds()))
		cmd.Stdin, cmd.WaitDelay = strings.NewReader(text), time.Second
		_, err := cmd.Output()
		return said(cmd, err)
	})
}

func (k *kernel) Append(chain string, spec ...string) error {
	return k.retry(func() error { return k.ipt.Append(k.table, chain, spec...) })
}

func (k *kernel) Insert(chain string, pos int, spec ...string) error {
	return k.retry(func() error { return k.ipt.Insert(k.table, chain, pos, spec...) })
}

func (k *kernel) Replace(chain string, pos int, spec ...string) error {
	return k.retry(func() error { return k.ipt.Replace(k.table, chain, pos, spec...) })
}

func (k *kernel) Delete(chain string, spec ...string) error {
	return k.retry(func() error { return k.ipt.Delete(k.table, chain, spec...) })
}

// lockHeld is the exit code of iptables when it could not get the tables.
const lockHeld = 4

// retry repeats a command that could not get the tables, with jitter.
func (k *kernel) retry(do func() error) error {
	for try := 0; ; try++ {
		err := do()
		if err == nil {
			return nil
		}
		var status interface{ ExitStatus() int }
		if !errors.As(err, &status) || status.ExitStatus() != lockHeld || !busy(err) {
			return fmt.Errorf("changing table %s: %w", k.table, err)
		}
		if try == k.wait.tries() {
			return &Pending{err}
		}
		select {
		case <-k.ctx.Done():
			return &Pending{errors.Join(err, k.ctx.Err())}
		case <-time.After(time.Duration(50+rand.IntN(200)) * time.Millisecond):
		}
	}
}

// busy tells a held lock from the other failures that share its exit code, as a
// missing permission or a kernel without nat.
func busy(err error) bool {
	text := err.Error()
	for _, s := range []string{"xtables lock", "Resource temporarily unavailable", "Device or resource busy", "Interrupted system call"} {
		if strings.Contains(text, s) {
			return true
		}
	}
	return false
}

// exited is a command's failure with its own words.
type exited struct {
	cmd  string
	code int
	text string
}

func (e *exited) Error() string {
	return fmt.Sprintf("running %s: exit status %d: %s", e.cmd, e.code, e.text)
}
func (e *exited) ExitStatus() int { return e.code }

func said(cmd *exec.Cmd, err error) error {
	var e *exec.ExitError
	if !errors.As(err, &e) {
		return err
	}
	text := strings.ReplaceAll(strings.TrimSpace(string(e.Stderr)), "(you must be root)", "(the agent needs CAP_NET_ADMIN and CAP_NET_RAW, which its unit kerege-agent.service gives it)")
	return &exited{strings.Join(cmd.Args, " "), e.ExitCode(), text}
}
