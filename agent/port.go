package agent

import (
	"cmp"
	"fmt"
	"slices"
)

// holdShared holds workloads that claim a port of another in the same network
// namespace: what arrives there can be one's only. Who is in the mesh stays in it.
// In an allocation's namespace a port is claimed with a certificate, because a
// registry may place there what it is not.
func (a *Agent) holdShared(list []*workload) {
	collide(list, func(w *workload) bool { return a.isIn(w.key()) }, func(w *workload) bool {
		return w.placement.Workload == "" || w.who.netns == "" || a.id.Get(holder(w)) != nil
	})
}

// collide says of each that may not go on why. Both are held where neither is in:
// whose port it is cannot be known, and must not depend on who was found first.
func collide(list []*workload, in, claims func(*workload) bool) {
	type socket struct {
		netns string
		port  uint16
	}
	taken := map[socket][]*workload{}
	for _, w := range list {
		if w.explicit != nil || w.held != "" || !claims(w) {
			continue
		}
		for _, p := range w.Ports {
			at := socket{w.who.netns, p}
			if !slices.Contains(taken[at], w) {
				taken[at] = append(taken[at], w)
			}
		}
	}
	for at, all := range taken {
		if len(all) < 2 {
			continue
		}
		// The one that is in is named first: it is what the others run into.
		slices.SortStableFunc(all, func(x, y *workload) int { return cmp.Compare(rank(in(x)), rank(in(y))) })
		for i, w := range all {
			if in(w) {
				continue
			}
			other := all[0]
			if i == 0 {
				other = all[1]
			}
			if why := shares(w, other, at.port); w.held == "" || why < w.held { // the same of several, every time
				w.held = why
			}
		}
	}
}

func rank(in bool) int {
	if in {
		return 0
	}
	return 1
}

func shares(w, other *workload, port uint16) string {
	mend := fmt.Sprintf("register each at a port of its own, or write the right ports into a workload %q block of agent.hcl", w.Service)
	if other.Gone {
		mend = fmt.Sprintf("no registry places that one here any more: kerege leave %s takes it out", other.Service)
	}
	return fmt.Sprintf("port %d is claimed by %s too, and calls that arrive there can be one workload's only: %s", port, other.key(), mend)
}
