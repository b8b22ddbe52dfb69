// Command demo tells the story of kerege on one machine: a server and three
// hosts in network namespaces, real Envoys, ordinary programs. It exits non-zero
// if any sentence it prints was not so, and leaves nothing behind.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"

	"github.com/kerege/kerege/e2e/lab"
)

func main() {
	keep := flag.Bool("keep", false, "stay up at the end, and print commands to try")
	consul := flag.Bool("consul", false, "take the services from a real Consul catalog instead of an HCL file")
	units := flag.Bool("systemd", false, "tell of one VM under a real systemd instead; needs root")
	jobs := flag.Bool("nomad", false, "tell of a job of a real Nomad instead; needs root")
	flag.Parse()
	if *jobs && os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "demo: Nomad runs tasks in cgroups and networks of their own: make demo NOMAD=1 as root")
		os.Exit(1)
	}
	if *units && os.Geteuid() != 0 {
		fmt.Fprintln(os.Stderr, "demo: a systemd of its own needs a cgroup of its own: make demo SYSTEMD=1 as root")
		os.Exit(1)
	}
	if !lab.Inside() {
		os.Exit(outside())
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	story := func() error { return tell(ctx, *keep, *consul) }
	if *jobs {
		story = func() error { return tellNomad(ctx) }
	}
	if *units {
		story = func() error { return tellSystemd(ctx) }
	}
	err := story()
	switch {
	case err == nil:
	case errors.Is(err, errEnough):
		fmt.Println("\nstopped; everything it made is gone")
	case errors.Is(err, context.Canceled):
		fmt.Println("\nstopped; everything it made is gone")
		os.Exit(130)
	default:
		fmt.Fprintf(os.Stderr, "\n✗ %v\n", err)
		os.Exit(1)
	}
}

// outside is the part that runs as the user called it: it looks at the machine's
// own rules before and after, and runs the story in namespaces of its own.
func outside() int {
	before, readable := rules()
	code, err := lab.Enter()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		return 1
	}
	after, _ := rules()
	switch {
	case !readable:
		fmt.Println("host's rules: not readable without root, and never touched: all of it was in namespaces of its own")
	case before == after:
		fmt.Println("host's rules: identical to before (iptables and ip6tables, all tables)")
	default:
		fmt.Fprintln(os.Stderr, "✗ host's rules: NOT what they were before")
		return 1
	}
	return code
}

// rules is the machine's own packet filter, less comments and counters.
func rules() (listing string, ok bool) {
	var b strings.Builder
	for _, tool := range []string{"iptables-save", "ip6tables-save"} {
		out, err := exec.Command(tool).Output()
		if err != nil {
			return "", false
		}
		b.WriteString(lab.NormaliseRules(string(out)))
	}
	return b.String(), true
}
