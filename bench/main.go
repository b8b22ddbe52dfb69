package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kerege/kerege/e2e/lab"
)

type flags struct {
	role, addr, ids, out, peer, consul, profile, registry, tls, only string
	rounds, warmup, peerRounds, cold                                 int
	shape                                                            shape
	large                                                            bool
	bin                                                              string
	window                                                           time.Duration
}

// benchmark is one of those of docs/performance.md: run prints its tables and
// returns its figures.
type benchmark struct {
	numbers []int
	name    string
	run     func(flags) (any, error)
}

var benchmarks = []benchmark{
	{[]int{1, 2}, "register-to-eds, change-cost", runChange},
	{[]int{3}, "cold-start", runCold},
	{[]int{4}, "memory-per-proxy", runMemory},
	{[]int{6}, "scaling-exponent", runScaling},
	{[]int{7}, "hcl-compile", runCompile},
	{[]int{10}, "data-path", runPath},
}

func main() {
	var f flags
	flag.StringVar(&f.role, "role", "", "for the program's own processes")
	flag.StringVar(&f.addr, "addr", "", "for the program's own processes")
	flag.StringVar(&f.ids, "ids", "", "for the program's own processes")
	flag.StringVar(&f.tls, "tls", "", "for the program's own processes")
	flag.StringVar(&f.registry, "registry", "", "for the program's own processes")
	flag.StringVar(&f.only, "only", "", "numbers of benchmarks with commas between, of those in docs/performance.md; default: all")
	flag.IntVar(&f.shape.P, "p", 1000, "1, 2, 3: proxies")
	flag.IntVar(&f.shape.S, "s", 1000, "1, 2, 3, 4: services of two instances")
	flag.IntVar(&f.shape.U, "u", 10, "1, 2, 3: upstreams a proxy")
	flag.IntVar(&f.shape.D, "d", 0, "1, 2: proxies that call the warm service; 0: one in a hundred")
	flag.IntVar(&f.rounds, "rounds", 30, "rounds a case")
	flag.IntVar(&f.warmup, "warmup", 3, "rounds before, not counted")
	flag.IntVar(&f.cold, "cold-rounds", 5, "3: cold starts of each contender")
	flag.BoolVar(&f.large, "large", false, "3: 5000 proxies, too")
	flag.IntVar(&f.peerRounds, "peer-rounds", 5, "1, 2: rounds a case of peers, of which one takes seconds")
	flag.StringVar(&f.peer, "peer", "consul,consul-defaults", "1, 2: peers with commas between: consul (its own xDS, limits off), consul-defaults; or none")
	flag.StringVar(&f.consul, "consul", "", "the Consul binary; default: the pinned one in the cache")
	flag.StringVar(&f.out, "out", "out/bench.json", "where the figures go; those of benchmarks that do not run stay")
	flag.StringVar(&f.profile, "profile", "", "1 to 4: a directory for profiles of kerege's server, of the last one that ran: cold.cpu, changes.cpu, heap")
	flag.StringVar(&f.bin, "bin", "bin", "10: the folder that make build fills")
	flag.DurationVar(&f.window, "window", 200*time.Millisecond, "10: how long each window of calls is")
	flag.Parse()
	if flag.NArg() > 0 {
		fmt.Fprintf(os.Stderr, "bench: %q is no flag\n", flag.Args())
		os.Exit(2)
	}
	if err := f.play(); err != nil {
		if f.role != "" {
			say(answer{Err: err.Error()})
		}
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func (f flags) play() error {
	switch f.role {
	case "":
		return run(f)
	case "client":
		return runClient(f)
	case "floor":
		return runFloor(f.shape, f.tls)
	case "ads":
		return profiled(f.profile, func(first func()) error { return runADS(f.shape, first) })
	case "kerege":
		return profiled(f.profile, func(first func()) error { return runKerege(f.shape, f.registry, first) })
	case "server":
		return profiled(f.profile, func(first func()) error { return runServer(f.shape, f.tls, first) })
	case "program":
		return runProgram(f.addr)
	case "load":
		return runLoad(f.addr)
	}
	return fmt.Errorf("unknown role %q", f.role)
}

// run plays the benchmarks that were asked for, one after the other; one that
// fails does not keep the others from running.
func run(f flags) error {
	wanted := map[int]bool{}
	for _, text := range strings.FieldsFunc(f.only, func(r rune) bool { return r == ',' || r == ' ' }) {
		n, err := strconv.Atoi(text)
		if err != nil || !slices.ContainsFunc(benchmarks, func(b benchmark) bool { return slices.Contains(b.numbers, n) }) {
			return fmt.Errorf("there is no benchmark %q", text)
		}
		wanted[n] = true
	}
	var failed []error
	for _, b := range benchmarks {
		if len(wanted) > 0 && !slices.ContainsFunc(b.numbers, func(n int) bool { return wanted[n] }) {
			continue
		}
		if !lab.Inside() {
			fmt.Printf("\n== %s: %s (load average %s)\n", b.label(), b.name, load())
		}
		start := time.Now()
		figures, err := b.run(f)
		if err == nil && figures != nil {
			err = write(f, b, figures)
		}
		if err != nil {
			fmt.Fprintf(os.Stderr, "bench: %s: %v\n", b.name, err)
			failed = append(failed, fmt.Errorf("%s: %w", b.name, err))
		}
		fmt.Fprintf(os.Stderr, "(%s)\n", time.Since(start).Round(time.Second))
	}
	return errors.Join(failed...)
}

func (b benchmark) label() string {
	var out []string
	for _, n := range b.numbers {
		out = append(out, strconv.Itoa(n))
	}
	return strings.Join(out, ", ")
}

// load is what else the machine does: figures say so.
func load() string {
	b, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return "unknown"
	}
	one, _, _ := strings.Cut(string(b), " ")
	return one
}

// write puts a benchmark's figures into the file beside those of others.
func write(f flags, b benchmark, figures any) error {
	all := map[string]any{}
	if old, err := os.ReadFile(f.out); err == nil {
		if json.Unmarshal(old, &all) != nil {
			all = map[string]any{}
		}
	}
	all[b.name] = map[string]any{"shape": f.shape, "rounds": f.rounds, "time": time.Now().UTC(), "load": load(), "results": figures}
	text, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		return fmt.Errorf("writing %s: %w", f.out, err)
	}
	if err := os.MkdirAll(filepath.Dir(f.out), 0o755); err != nil {
		return fmt.Errorf("writing %s: %w", f.out, err)
	}
	if err := os.WriteFile(f.out, append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("writing %s: %w", f.out, err)
	}
	return nil
}
