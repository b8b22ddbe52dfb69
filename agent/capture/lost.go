package capture

import (
	"context"
	"slices"
	"time"
)

// lostAfter is how long rules are seen missing, while putting them back fails,
// before a workload counts as not captured: a flush that is mended, at once or at
// the second try, takes nobody out of the mesh.
const lostAfter = 5 * time.Second

// missing is since when the rules of a namespace are gone, and why they do not
// come back.
type missing struct {
	since time.Time
	why   string
}

// Lost says why a workload's traffic is surely not captured: no record wants it, or
// its rules are gone and cannot be put back. "": it is captured, or nobody knows.
// It is asked of memory.
func (m *Manager) Lost(workload string) (why string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.last == nil || m.refused != "" {
		return ""
	}
	c := m.last.Config
	if c == nil {
		return "nothing is captured on its host any more"
	}
	i := slices.IndexFunc(c.Workloads, func(w Workload) bool { return w.Name == workload })
	if i < 0 {
		return "the capture of its host leaves it out"
	}
	if gone, is := m.missing[c.Workloads[i].Netns]; is && time.Since(gone.since) >= lostAfter {
		return "its capture's rules are gone and cannot be put back (" + gone.why + ")"
	}
	return ""
}

// noteMissing looks, after a failed repair, at what stands. Tables that cannot be
// read tell nothing: their rules may be in the kernel as they were.
func (m *Manager) noteMissing(ctx context.Context, s *state, err error) {
	if err == nil {
		clear(m.missing)
		return
	}
	c := m.effective(s.Config)
	for _, netns := range c.namespaces() {
		targets, _, e := m.targets(ctx, s, netns, Rules(c.in(netns)))
		if e != nil {
			continue
		}
		if !slices.ContainsFunc(targets, (*target).gone) {
			delete(m.missing, netns)
		} else if _, known := m.missing[netns]; !known {
			m.missing[netns] = missing{time.Now(), err.Error()}
		}
	}
}

// gone tells whether packets meet none of the rules of a hook that should have
// some; an older generation of them counts as some.
func (t *target) gone() bool {
	return t.table == nat && len(t.want) > 0 && slices.ContainsFunc(hooksOf(t.table), func(h hook) bool {
		live := h.live(t.now)
		return len(t.want[h.root]) > 0 && (live == "" || h.jumps(t.now) == 0 || len(t.now.chains[live]) == 0)
	})
}
