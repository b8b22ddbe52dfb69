package mesh

import "strings"

// WithoutNode is the snapshot without a node's members, and with these marks of
// nodes that are trusted no more; all else is as it was. The keys are With's.
func (s *Snapshot) WithoutNode(node string, away []string) (*Snapshot, []Key) {
	parts := []Part{}
	s.entries.all(func(key string, e *entry) {
		source, scope, _ := strings.Cut(key, "\x00")
		if len(e.bundle)+len(e.away) > 0 {
			parts = append(parts, Part{Source: source, Scope: scope, Bundle: e.bundle, Away: away})
			return
		}
		left, found := Part{Source: source, Scope: scope}, false
		for _, slot := range e.slots {
			for _, m := range slot.members {
				if m.Node == node {
					found = true
				} else {
					left.Members = append(left.Members, *m)
				}
			}
		}
		if found {
			parts = append(parts, left)
		}
	})
	return s.With(parts...)
}
