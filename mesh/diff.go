package mesh

import (
	"bytes"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// Diff lists, sorted, the keys of all that reads differently in two snapshots,
// however they were made. Its cost grows with the mesh.
func Diff(old, new *Snapshot) []Key {
	b := builder{old: old, s: new, keys: map[Key]bool{}}
	b.mark(Key{KindMesh, ""}, old.Config() != new.Config())
	b.mark(Key{KindDefaults, ""}, !reflect.DeepEqual(old.defaults, new.defaults))
	b.mark(Key{KindBundle, ""}, !bytes.Equal(old.bundle, new.bundle))
	b.mark(Key{KindAway, ""}, !slices.Equal(old.away, new.away))
	b.mark(Key{KindServices, ""}, !slices.Equal(old.names, new.names))
	b.mark(Key{KindOpen, ""}, !slices.Equal(old.open, new.open))
	b.mark(Key{KindPatterns, ""}, !slices.Equal(old.patterns, new.patterns))
	b.mark(Key{KindCallers, ""}, !slices.Equal(old.callerPatterns, new.callerPatterns))
	none := &record{}
	for name := range keysOf(old.records, new.records) {
		x, y := old.records.get(name), new.records.get(name)
		if x == y {
			continue
		}
		if x == nil {
			x = none
		}
		if y == nil {
			y = none
		}
		b.compare(name, x, y)
	}
	for pair := range keysOf(old.callers, new.callers) {
		b.token(pair)
	}
	for pair := range keysOf(old.retained, new.retained) {
		b.token(pair)
	}
	for pair := range keysOf(old.nodes, new.nodes) {
		node, _, _ := strings.Cut(pair, "\x00")
		b.mark(Key{KindNode, node}, !equalInstances(old.Node(node), new.Node(node)))
	}
	return slices.SortedFunc(maps.Keys(b.keys), Key.Compare)
}

func (b *builder) token(pair string) {
	token, _, _ := strings.Cut(pair, "\x00")
	b.mark(Key{KindCaller, token}, !slices.Equal(b.old.Naming(token), b.s.Naming(token)))
}

func keysOf[V any](a, b tree[V]) map[string]bool {
	m := map[string]bool{}
	a.all(func(k string, _ V) { m[k] = true })
	b.all(func(k string, _ V) { m[k] = true })
	return m
}
