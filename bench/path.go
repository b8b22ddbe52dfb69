package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/kerege/kerege/e2e/lab"
	"github.com/kerege/kerege/e2e/town"
)

// Path is one case of the data path: medians over its windows.
type Path struct {
	Conns       int
	Keep        bool
	Rate, Pair  float64       // calls a second: through kerege, through the pair
	OfPair      float64       // median over rounds of a window's rate against the pair's beside it
	P50, P99    time.Duration // through kerege
	Pair50      time.Duration
	Pair99      time.Duration
	CPU         time.Duration // of both Envoys, a call
	PairCPU     time.Duration
	CPUOfPair   float64
	rate, other []float64
}

// side is a client with the Envoys behind it.
type side struct {
	talk   *lab.Talk
	envoys []int
}

// DataPath is what benchmark 10 found.
type DataPath struct {
	Cases                      []*Path
	Connect, Captured, Capture time.Duration // connect(2): without rules in the way, through them, and the median difference
}

// runPath is benchmark 10. It needs network namespaces, so it runs this program
// again inside a lab.
func runPath(f flags) (any, error) {
	if !lab.Inside() {
		os.Args = append(os.Args, "-only", "10")
		code, err := lab.Enter()
		if err == nil && code != 0 {
			err = fmt.Errorf("the data path's own process ended with %d", code)
		}
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	t, err := town.New("krdp", f.bin, false)
	if err != nil {
		return nil, err
	}
	defer t.Close()
	ours, theirs, err := sides(ctx, t)
	if err != nil {
		return nil, err
	}
	out := &DataPath{}
	for _, keep := range []bool{true, false} {
		for _, c := range []int{1, 16, 64} {
			fmt.Fprintf(os.Stderr, "data path, %d connections, kept: %v\n", c, keep)
			p := &Path{Conns: c, Keep: keep}
			if err := p.measure(ours, theirs, f.warmup, f.rounds, f.window); err != nil {
				return nil, err
			}
			out.Cases = append(out.Cases, p)
		}
	}
	if err := out.connects(t, ours, f.rounds); err != nil {
		return nil, err
	}
	out.print(f)
	return out, nil
}

// sides brings up kerege's pair of hosts as a user would, and the hand-written one.
func sides(ctx context.Context, t *town.Town) (ours, theirs *side, err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, fmt.Errorf("finding the load generator: %w", err)
	}
	if self, err = t.Lab.Share(self); err != nil {
		return nil, nil, err
	}
	text := "mesh {\n  trust_domain = \"" + trustDomain + "\"\n}\n\nintention \"api\" {\n  allow { from = [\"web\"] }\n}\n"
	for _, name := range []string{"web", "api"} {
		h, err := t.AddHost(ctx, name, name, "v1")
		if err != nil {
			return nil, nil, err
		}
		if _, err := h.Start(programOf(self, ":8080")); err != nil {
			return nil, nil, err
		}
		text += fmt.Sprintf("\nservice %q {\n  protocol = \"http\"\n  instance %q {\n    node    = %q\n    address = \"%s\"\n    port    = 8080\n  }\n}\n", name, name+"-1", name, h.IP)
	}
	if err := t.StartServer(ctx, text); err != nil {
		return nil, nil, err
	}
	ours = &side{}
	for _, name := range []string{"api", "web"} {
		h := t.Hosts[name]
		if err := h.BringInRunning(ctx); err != nil {
			return nil, nil, err
		}
		ours.envoys = append(ours.envoys, named(h.Envoy.Pid(), "envoy"))
	}
	if err := t.Hosts["web"].WaitFor(ctx, "http://api.mesh:8080/", 200, 20*time.Second); err != nil {
		return nil, nil, err
	}
	p, err := startPair(ctx, t, self)
	if err != nil {
		return nil, nil, err
	}
	theirs = &side{}
	for _, e := range p.envoys {
		theirs.envoys = append(theirs.envoys, named(e.Pid(), "envoy"))
	}
	if ours.talk, err = t.Hosts["web"].Talk(lab.Spec{Name: "load", UID: town.UIDApp, Args: []string{self, "-role", "load", "-addr", "api.mesh:8080"}}); err != nil {
		return nil, nil, err
	}
	theirs.talk, err = p.client.Talk(lab.Spec{Name: "load", UID: town.UIDApp, Args: []string{self, "-role", "load", "-addr", fmt.Sprintf("127.0.0.1:%d", pairPort)}})
	return ours, theirs, err
}

// programOf is the application behind the data path, where self is this program.
func programOf(self, at string) lab.Spec {
	return lab.Spec{Name: "program", UID: town.UIDApp, Args: []string{self, "-role", "program", "-addr", at}}
}

// named is the process of that name at or under a process.
func named(pid int, name string) int {
	comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	if err == nil && strings.TrimSpace(string(comm)) == name {
		return pid
	}
	tasks, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	if err != nil {
		return 0
	}
	for _, file := range tasks {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it ended meanwhile
		}
		for _, word := range strings.Fields(string(text)) {
			if child, err := strconv.Atoi(word); err == nil {
				if found := named(child, name); found != 0 {
					return found
				}
			}
		}
	}
	return 0
}

// window is one window of calls of a side.
type window struct {
	rate     float64
	p50, p99 time.Duration
	cpu      time.Duration // of the Envoys, a call
}

func (s *side) window(c int, keep bool, d time.Duration) (window, error) {
	mode := "new"
	if keep {
		mode = "keep"
	}
	before := s.cpu()
	answer, err := s.talk.Call(fmt.Sprintf("%d %s %d", c, mode, d.Milliseconds()))
	if err != nil {
		return window{}, err
	}
	spent := s.cpu() - before
	var calls, took, p50, p99 int64
	if _, err := fmt.Sscan(answer, &calls, &took, &p50, &p99); err != nil || calls == 0 {
		return window{}, fmt.Errorf("calling: %s", answer)
	}
	return window{rate: float64(calls) / time.Duration(took).Seconds(), p50: time.Duration(p50), p99: time.Duration(p99), cpu: spent / time.Duration(calls)}, nil
}

func (s *side) cpu() (sum time.Duration) {
	for _, pid := range s.envoys {
		sum += cpu(pid)
	}
	return sum
}

// measure lets the sides take turns; who begins changes from round to round.
func (p *Path) measure(ours, theirs *side, warmup, rounds int, d time.Duration) error {
	var rate, pair, of, cpuOf []int64 // rates in thousandths
	var p50, p99, pair50, pair99, spent, pairSpent []time.Duration
	for r := range warmup + rounds {
		var got [2]window
		for i := range 2 {
			which := (i + r) % 2
			w, err := []*side{ours, theirs}[which].window(p.Conns, p.Keep, d)
			if err != nil {
				return fmt.Errorf("%d connections, kept: %v, side %d: %w", p.Conns, p.Keep, which, err)
			}
			got[which] = w
		}
		if r < warmup {
			continue
		}
		a, b := got[0], got[1]
		rate, pair = append(rate, int64(1000*a.rate)), append(pair, int64(1000*b.rate))
		of, cpuOf = append(of, int64(1000*a.rate/b.rate)), append(cpuOf, int64(1000*ratio(a.cpu, b.cpu)))
		p50, p99, pair50, pair99 = append(p50, a.p50), append(p99, a.p99), append(pair50, b.p50), append(pair99, b.p99)
		spent, pairSpent = append(spent, a.cpu), append(pairSpent, b.cpu)
	}
	thousandths := func(list []int64) float64 { return float64(quantile(list, 0.5)) / 1000 }
	p.Rate, p.Pair, p.OfPair, p.CPUOfPair = thousandths(rate), thousandths(pair), thousandths(of), thousandths(cpuOf)
	p.P50, p.P99, p.Pair50, p.Pair99 = quantile(p50, 0.5), quantile(p99, 0.5), quantile(pair50, 0.5), quantile(pair99, 0.5)
	p.CPU, p.PairCPU = quantile(spent, 0.5), quantile(pairSpent, 0.5)
	return nil
}

// connects compares connect(2) to the same listener: by the virtual address, which
// the rules send there, and as a user whom no rule knows, by its own port.
func (d *DataPath) connects(t *town.Town, ours *side, rounds int) error {
	h := t.Hosts["web"]
	free, err := h.Talk(lab.Spec{Name: "free", Args: []string{filepath.Join(t.Lab.Dir, "bin", filepath.Base(os.Args[0])), "-role", "load", "-addr", "127.0.0.1:15001"}})
	if err != nil {
		return err
	}
	defer free.Close()
	var plain, captured, more []time.Duration
	for range rounds {
		var got [2]time.Duration
		for i, talk := range []*lab.Talk{free, ours.talk} {
			answer, err := talk.Call("connect - 200")
			if err != nil {
				return err
			}
			ns, err := strconv.ParseInt(answer, 10, 64)
			if err != nil {
				return fmt.Errorf("connecting: %s", answer)
			}
			got[i] = time.Duration(ns)
		}
		plain, captured, more = append(plain, got[0]), append(captured, got[1]), append(more, got[1]-got[0])
	}
	d.Connect, d.Captured, d.Capture = quantile(plain, 0.5), quantile(captured, 0.5), quantile(more, 0.5)
	return nil
}

func (d *DataPath) print(f flags) {
	fmt.Printf("\ncalls a second through capture, mTLS and two Envoys, against a hand-written pair; median of %d windows of %s each\n", f.rounds, f.window)
	t := newTable("connections", "kerege", "pair", "kerege / pair", "p50", "pair's", "p99", "pair's", "Envoys' CPU a call", "pair's", "CPU / pair")
	us := func(v time.Duration) string { return fmt.Sprintf("%d µs", v.Microseconds()) }
	for _, p := range d.Cases {
		name := "a new one each"
		if p.Keep {
			name = "keep-alive"
		}
		t.row(name, p.Conns, fmt.Sprintf("%.0f/s", p.Rate), fmt.Sprintf("%.0f/s", p.Pair), fmt.Sprintf("%.0f %%", 100*p.OfPair), us(p.P50), us(p.Pair50),
			us(p.P99), us(p.Pair99), us(p.CPU), us(p.PairCPU), p.CPUOfPair)
	}
	t.print()
	fmt.Printf("\ncapture: connect(2) takes %.1f µs without rules and %.1f µs through them, %.1f µs more\n",
		float64(d.Connect.Nanoseconds())/1000, float64(d.Captured.Nanoseconds())/1000, float64(d.Capture.Nanoseconds())/1000)
	fmt.Println("\nNot alike: the pair has no capture, control plane, access rules, header policy, retries, statistics by service or access log. Both have one\n" +
		"worker an Envoy, HTTP/2 and mutual TLS with exact identities between them; client, four Envoys and both programs share the cores.")
}
