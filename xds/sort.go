package xds

import (
	"cmp"
	"maps"
	"slices"

	"github.com/kerege/kerege/xds/delta"
)

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }

// group puts resources into their order.
func group(key string, resources []*delta.Resource) *delta.Group {
	slices.SortFunc(resources, compareResources)
	return &delta.Group{Key: key, Resources: resources}
}

func compareResources(a, b *delta.Resource) int {
	return cmp.Or(cmp.Compare(a.Type, b.Type), cmp.Compare(a.Name, b.Name))
}
