package main

import (
	"fmt"
	"os"
	"time"
)

// Cold is what one contender's cold starts cost: medians.
type Cold struct {
	Name    string
	P       int
	Took    time.Duration // from the first connection until every stream held all
	CPU     time.Duration // of the server
	Clients time.Duration // CPU of the fleet
	Bytes   int64         // a stream
	OfFloor float64       // median of a round's Took against the floor's just before
	CPUOf   float64       // of a round's CPU against the floor's just before

	took, cpu, clients []time.Duration
	bytes              []int64
}

// runCold is benchmark 3. Each cold start has a server and clients of its own;
// the contenders take turns, so that what else the machine does disturbs all.
func runCold(f flags) (any, error) {
	sizes := []int{f.shape.P}
	if f.large {
		sizes = append(sizes, 5000)
	}
	var all []*Cold
	for _, p := range sizes {
		s := f.shape
		s.P = p
		// Each of ours is set against the floor over the same transport.
		pairs := [][2]*Cold{
			{{Name: "raw floor", P: p}, {Name: "kerege", P: p}},
			{{Name: "raw floor, mTLS", P: p}, {Name: "kerege server, mTLS", P: p}},
		}
		for r := range f.cold {
			fmt.Fprintf(os.Stderr, "cold start of %d, round %d of %d\n", p, r+1, f.cold)
			for _, pair := range pairs {
				for _, c := range pair {
					if err := c.start(s, f); err != nil {
						return nil, fmt.Errorf("cold start of %s: %w", c.Name, err)
					}
				}
			}
		}
		for _, pair := range pairs {
			for _, c := range pair {
				c.finish(pair[0])
			}
			all = append(all, pair[:]...)
		}
	}
	fmt.Printf("\ncold start, median of %d; S=%d U=%d\n", f.cold, f.shape.S, f.shape.U)
	t := newTable("proxies", "took", "server CPU", "clients' CPU", "bytes a stream", "took / floor", "CPU / floor")
	for _, c := range all {
		t.row(c.Name, c.P, c.Took, c.CPU, c.Clients, c.Bytes, c.OfFloor, c.CPUOf)
	}
	t.print()
	fmt.Println("\nNot alike: the floor carries clusters and endpoints only. kerege in plaintext is hub, planner and ADS; with mTLS it is the whole server\n" +
		"through its own port, which also tells nodes apart, asks whether a registry places the proxy there, and admits a bounded number at once.")
	return all, nil
}

// start is one cold start.
func (c *Cold) start(s shape, f flags) error {
	role, extra := "floor", []string(nil)
	switch c.Name {
	case "kerege":
		role, extra = "kerege", []string{"-profile", f.profile}
	case "raw floor, mTLS", "kerege server, mTLS":
		dir, err := os.MkdirTemp("", "krbench-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		extra = []string{"-tls", dir}
		if c.Name == "kerege server, mTLS" {
			role, extra = "server", append(extra, "-profile", f.profile)
		}
	}
	got, err := own(c.Name, role, s, extra...)
	if err != nil {
		return err
	}
	got.stop()
	r := got.result
	c.took, c.cpu, c.clients, c.bytes = append(c.took, r.ColdStart), append(c.cpu, r.ColdCPU), append(c.clients, r.Clients), append(c.bytes, r.ColdBytes)
	return nil
}

func (c *Cold) finish(floor *Cold) {
	c.Took, c.CPU, c.Clients, c.Bytes = quantile(c.took, 0.5), quantile(c.cpu, 0.5), quantile(c.clients, 0.5), quantile(c.bytes, 0.5)
	c.OfFloor, c.CPUOf = ofRounds(c.took, floor.took), ofRounds(c.cpu, floor.cpu)
}

// ofRounds is the median over rounds of one contender's figure against another's
// of the same round.
func ofRounds(mine, other []time.Duration) float64 {
	parts := make([]int64, len(mine))
	for i := range mine {
		parts[i] = int64(1000 * ratio(mine[i], other[i]))
	}
	return float64(quantile(parts, 0.5)) / 1000
}
