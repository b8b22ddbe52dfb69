package ca

import (
	"slices"
	"time"

	"github.com/kerege/kerege/mesh"
)

const (
	defaultKeepAway = 31 * 24 * time.Hour
	maxAway         = 256
)

// away is the mark of a node that was evicted, banned or replaced.
type away struct {
	Mark string    `json:"mark"`
	At   time.Time `json:"at"`
}

// Mark is what the certificates are marked with that are signed for a node now.
func (t *Tokens) Mark(nodeName string) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.table.mark(nodeName)
}

func (v *table) mark(nodeName string) string {
	if n := v.Nodes[nodeName]; n != nil {
		return mesh.Mark(nodeName, n.Joined)
	}
	return mesh.Mark(nodeName, time.Time{})
}

// sendAway keeps the mark of a node that is to be believed no more.
func (v *table) sendAway(nodeName string, now time.Time) {
	mark := v.mark(nodeName)
	if !slices.ContainsFunc(v.Away, func(a away) bool { return a.Mark == mark }) {
		v.Away = append(v.Away, away{mark, now})
	}
}

// recent are the newest of those that were sent away no longer ago than keep.
func recent(list []away, now time.Time, keep time.Duration) []away {
	list = slices.Clone(list)
	list = slices.DeleteFunc(list, func(a away) bool { return now.Sub(a.At) > keep })
	return list[max(0, len(list)-maxAway):]
}

// Away are the marks of the nodes that were evicted, banned or replaced, sorted:
// the newest 256 of TokenOptions.KeepAway.
func (t *Tokens) Away() []string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []string
	for _, a := range recent(t.table.Away, t.opt.Now(), or(t.opt.KeepAway, defaultKeepAway)) {
		out = append(out, a.Mark)
	}
	slices.Sort(out)
	return out
}
