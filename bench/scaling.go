package main

import (
	"fmt"
	"math"
	"os"
	"time"
)

// Scaling is how a change's CPU grows with one size of the mesh.
type Scaling struct {
	Of       string
	Sizes    []int
	CPU      []time.Duration // of a change at each size, the server's
	Exponent float64         // of the power law through them
}

const (
	dependents    = 100 // of the service that changes, whatever grows
	scalingRounds = 15  // at each of nine sizes
)

// runScaling is benchmark 6: a hundred proxies depend on the service that changes;
// what else there is grows, one size at a time.
func runScaling(f flags) (any, error) {
	var all []Scaling
	for _, axis := range []struct {
		of    string
		sizes []int
		shape func(n int) shape
	}{
		{"services", []int{100, 1000, 10000}, func(n int) shape { return shape{P: dependents, S: n, U: 10, D: dependents} }},
		{"upstreams a proxy", []int{10, 50, 300}, func(n int) shape { return shape{P: dependents, S: 1000, U: n, D: dependents} }},
		{"proxies that do not depend", []int{0, 500, 5000}, func(n int) shape { return shape{P: dependents + n, S: 1000, U: 10, D: dependents} }},
	} {
		s := Scaling{Of: axis.of, Sizes: axis.sizes}
		var x []float64
		for _, n := range axis.sizes {
			fmt.Fprintf(os.Stderr, "scaling with %s: %d\n", axis.of, n)
			spent, err := changeCPU(f, axis.shape(n))
			if err != nil {
				return nil, fmt.Errorf("%d %s: %w", n, axis.of, err)
			}
			s.CPU = append(s.CPU, spent)
			x = append(x, float64(n))
			if axis.sizes[0] == 0 {
				x[len(x)-1] += dependents // a power law has no place for nothing
			}
		}
		s.Exponent = exponent(x, s.CPU)
		all = append(all, s)
	}
	fmt.Printf("\nCPU of a change with %d dependents, median of %d rounds, and the exponent of the power law through it (goal: at most 0.1)\n", dependents, min(f.rounds, scalingRounds))
	t := newTable("sizes", "CPU a change", "exponent")
	for _, s := range all {
		t.row(s.Of, fmt.Sprint(s.Sizes), fmt.Sprint(s.CPU), s.Exponent)
	}
	t.print()
	return all, nil
}

// changeCPU is what a change of the warm service costs the server.
func changeCPU(f flags, s shape) (time.Duration, error) {
	c, err := own("kerege", "kerege", s)
	if err != nil {
		return 0, err
	}
	defer c.stop()
	cs := &Case{Name: "scaling", Dependents: s.dependents(warm)}
	for r := range f.warmup + min(f.rounds, scalingRounds) {
		if err := c.round(cs, warm, r >= f.warmup); err != nil {
			return 0, fmt.Errorf("round %d: %w", r, err)
		}
	}
	cs.finish()
	return cs.CPU, nil
}

// exponent is the slope of the least-squares line through the logarithms.
func exponent(x []float64, y []time.Duration) float64 {
	var sx, sy, sxx, sxy float64
	n := float64(len(x))
	for i := range x {
		a, b := math.Log(x[i]), math.Log(float64(max(1, y[i])))
		sx, sy, sxx, sxy = sx+a, sy+b, sxx+a*a, sxy+a*b
	}
	return (n*sxy - sx*sy) / (n*sxx - sx*sx)
}
