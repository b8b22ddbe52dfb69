package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// runChange is benchmarks 1 and 2: it measures kerege and the floor in turns,
// then the peer.
func runChange(f flags) (any, error) {
	fmt.Printf("%s, %d rounds\n", f.shape, f.rounds)
	var ours []*contender
	var results []*Result
	defer func() {
		for _, c := range ours {
			c.stop()
		}
	}()
	starts := []func() (*contender, error){
		func() (*contender, error) { return own("raw floor", "floor", f.shape) },
		func() (*contender, error) { return own("kerege's ADS alone", "ads", f.shape) },
		func() (*contender, error) { return own("kerege", "kerege", f.shape, "-profile", f.profile) },
	}
	if len(f.peers()) > 0 {
		starts = append(starts, func() (*contender, error) { return keregeOnConsul("kerege, on Consul", f.binary(), f.shape) })
	}
	for _, start := range starts {
		c, err := start()
		if err == nil {
			fmt.Fprintf(os.Stderr, "%s is up: all streams in %s\n", c.name, c.result.ColdStart.Round(time.Millisecond))
		}
		if err != nil {
			return nil, err
		}
		c.result.beside = true
		ours = append(ours, c)
		results = append(results, &c.result)
	}
	if err := rounds(f, f.rounds, ours...); err != nil {
		return nil, err
	}
	for _, c := range ours {
		c.stop()
	}
	ours = nil
	for _, name := range f.peers() {
		fmt.Fprintf(os.Stderr, "now %s with its own xDS; this takes minutes\n", name)
		peer, err := peerConsul(name, f.binary(), name == "consul", f.shape)
		if err != nil {
			return nil, err
		}
		ours = []*contender{peer}
		if err := rounds(f, min(f.rounds, f.peerRounds), peer); err != nil {
			return nil, err
		}
		peer.stop()
		ours = nil
		results = append(results, &peer.result)
	}
	report(results, f.shape.P)
	return results, nil
}

func (f flags) peers() []string {
	if f.peer == "none" || f.peer == "" {
		return nil
	}
	return strings.Split(f.peer, ",")
}

func (f flags) binary() string {
	if f.consul != "" {
		return f.consul
	}
	if env := os.Getenv("CONSUL"); env != "" && env != "1" {
		return env
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "consul"
	}
	return filepath.Join(cache, "kerege", "parts", "consul-1.20.6", "consul")
}

// rounds runs every case, the contenders in turns.
func rounds(f flags, n int, cs ...*contender) error {
	for _, kind := range []struct {
		name    string
		service int
	}{{"all depend", hot}, {"1 % depend", warm}} {
		for _, c := range cs {
			c.result.Cases = append(c.result.Cases, &Case{Name: kind.name, Dependents: f.shape.dependents(kind.service)})
		}
		for r := range f.warmup + n {
			for _, c := range cs {
				if err := c.round(c.result.Cases[len(c.result.Cases)-1], kind.service, r >= f.warmup); err != nil {
					return fmt.Errorf("round %d of %q: %w", r, kind.name, err)
				}
			}
		}
		for _, c := range cs {
			c.result.Cases[len(c.result.Cases)-1].finish()
		}
	}
	return nil
}

func report(results []*Result, p int) {
	floor := results[0]
	for i := range floor.Cases {
		fmt.Printf("\nregister-to-eds and change-cost, %s (%d streams)\n", floor.Cases[i].Name, floor.Cases[i].Dependents)
		w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
		fmt.Fprintln(w, "\tp50\tp99\tlast\tserver CPU\tbytes\tmessages\tp99 / floor\tof a round\tCPU / floor\t")
		for _, r := range results {
			c := r.Cases[i]
			f := floor.Cases[i]
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%d\t%d\t%.2f\t%s\t%.2f\t\n", r.Name, ms(c.P50), ms(c.P99), ms(c.Last), ms(c.CPU), c.Bytes, c.Messages,
				float64(c.P99)/float64(f.P99), ofARound(r, c, f), float64(c.CPU)/float64(f.CPU))
		}
		w.Flush()
	}
	fmt.Println("\ncold start of all streams")
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "\ttook\tserver CPU\tclients' CPU\tbytes a stream\tRSS before\tRSS\ta proxy\t")
	for _, r := range results {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%d\t%d MiB\t%d MiB\t%d KiB\t\n", r.Name, ms(r.ColdStart), ms(r.ColdCPU), ms(r.Clients), r.ColdBytes, r.Idle>>20, r.RSS>>20, (r.RSS-r.Idle)>>10/int64(p))
	}
	w.Flush()
	fmt.Println("\n" + strings.TrimSpace(notAlike))
}

// ofARound is the median over rounds of a round's p99 against that of the floor's
// round just before, which the machine's other work disturbs less; peers have no
// floor beside them.
func ofARound(r *Result, c, floor *Case) string {
	if !r.beside || len(c.p99) == 0 {
		return ""
	}
	var list []float64
	for i, d := range c.p99 {
		list = append(list, float64(d)/float64(floor.p99[i]))
	}
	slices.Sort(list)
	c.OfRound = list[len(list)/2]
	return fmt.Sprintf("%.2f", c.OfRound)
}

// notAlike says what the figures do not compare.
const notAlike = `
Not alike: the change of the floor, of the ADS alone and of kerege begins in the server's process (a part of its registry), that of kerege on
Consul and of Consul's own xDS with the HTTP write of the catalog; CPU of kerege on Consul is without Consul's. The floor and the ADS alone carry clusters and endpoints only; kerege also listeners, routes, policies and callers; Consul also
listeners. All plaintext, servers and clients on the same cores.`
