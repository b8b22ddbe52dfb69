package main

import "fmt"

// Memory is what a proxy's streams and resources cost a server to hold, KiB.
type Memory struct {
	Name    string
	P, U    int
	RSS     int64   // resident memory with all streams less that before the first
	Heap    int64   // of it what is left after a collection
	Stacks  int64   // of goroutines
	OfFloor float64 // RSS against the floor's
}

// runMemory is benchmark 4.
func runMemory(f flags) (any, error) {
	var all []Memory
	fmt.Printf("\nmemory a proxy, with 2000 of them; S=%d\n", f.shape.S)
	for _, u := range []int{10, 100} {
		s := f.shape
		s.P, s.U = 2*f.shape.P, u
		for _, role := range []string{"floor", "kerege"} {
			m, err := hold(f, role, s)
			if err != nil {
				return nil, fmt.Errorf("holding %s of %s: %w", s, role, err)
			}
			m.OfFloor = 1
			if role != "floor" {
				m.OfFloor = ratio(m.RSS, all[len(all)-1].RSS)
			}
			all = append(all, m)
		}
	}
	t := newTable("upstreams", "RSS", "live heap", "stacks", "RSS / floor")
	for _, m := range all {
		t.row(m.Name, m.U, fmt.Sprintf("%d KiB", m.RSS), fmt.Sprintf("%d KiB", m.Heap), fmt.Sprintf("%d KiB", m.Stacks), m.OfFloor)
	}
	t.print()
	fmt.Println("\nNot alike: the floor holds nothing but its streams. How much of the collector's headroom is resident differs between runs: the live\n" +
		"heap and the stacks are what is needed, resident memory is what is paid. Plaintext; mTLS adds its own buffers to both.")
	return all, nil
}

func hold(f flags, role string, s shape) (Memory, error) {
	c, err := own(role, role, s, "-profile", f.profile)
	if err != nil {
		return Memory{}, err
	}
	defer c.stop()
	p := int64(s.P) << 10
	m := Memory{Name: role, P: s.P, U: s.U, RSS: (c.result.RSS - c.result.Idle) / p}
	if role == "floor" {
		m.Name = "raw floor"
	}
	if f.profile != "" { // the first order writes the heap
		if _, err := c.server.ask(order{Remove: true, Service: hot}); err != nil {
			return m, err
		}
	}
	a, err := c.server.ask(order{Memory: true})
	if err != nil {
		return m, err
	}
	m.Heap, m.Stacks = (a.Heap-c.idle.Heap)/p, (a.Stacks-c.idle.Stacks)/p
	return m, nil
}
