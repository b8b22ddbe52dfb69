package mesh

import (
	"cmp"
	"maps"
	"reflect"
	"slices"
)

// Equality of what a snapshot hands out. Matchers are compiled from texts, and
// two are equal when their texts are; reflect.DeepEqual would look into them.

func equalInstance(a, b *Instance) bool {
	return a.Service == b.Service && a.ID == b.ID && a.Source == b.Source && a.Registered == b.Registered &&
		a.Datacenter == b.Datacenter && a.Namespace == b.Namespace && a.Node == b.Node && a.Workload == b.Workload && a.Job == b.Job &&
		a.Addr == b.Addr && a.PortName == b.PortName && a.Protocol == b.Protocol &&
		slices.Equal(a.Tags, b.Tags) && maps.Equal(a.Meta, b.Meta) && maps.Equal(a.NodeMeta, b.NodeMeta) &&
		maps.Equal(a.Tagged, b.Tagged) && a.Weight == b.Weight && a.Health == b.Health &&
		a.Locality == b.Locality && a.Pos == b.Pos && a.In == b.In && a.Barred == b.Barred && equalAllocation(a.Allocation, b.Allocation)
}

func equalInstances(a, b []*Instance) bool {
	return slices.EqualFunc(a, b, func(x, y *Instance) bool { return x == y || equalInstance(x, y) })
}

func equalSlot(a, b *slot) bool {
	return slices.EqualFunc(a.blocks, b.blocks, equalBlock) &&
		equalInstances(a.instances, b.instances) &&
		reflect.DeepEqual(a.routes, b.routes) && reflect.DeepEqual(a.intentions, b.intentions) &&
		reflect.DeepEqual(a.members, b.members) && slices.Equal(a.vips, b.vips) && reflect.DeepEqual(a.served, b.served) && slices.Equal(a.retained, b.retained) &&
		maps.EqualFunc(a.allocations, b.allocations, equalAllocation)
}

func equalBlock(a, b *ServiceConfig) bool {
	x, y := *a, *b
	x.Sources, x.Subsets = textual(x.Sources, x.Subsets)
	y.Sources, y.Subsets = textual(y.Sources, y.Subsets)
	return reflect.DeepEqual(&x, &y)
}

func equalService(a, b *Service) bool {
	if a == nil || b == nil {
		return a == b
	}
	x, y := *a, *b
	x.Sources, x.Subsets = textual(x.Sources, x.Subsets)
	y.Sources, y.Subsets = textual(y.Sources, y.Subsets)
	return reflect.DeepEqual(&x, &y)
}

// present stands for any Matcher.
type present struct{}

func (present) Match(*Instance) bool { return false }

func textual(refs []SourceRef, subsets []Subset) ([]SourceRef, []Subset) {
	refs, subsets = slices.Clone(refs), slices.Clone(subsets)
	for i := range refs {
		if refs[i].Match != nil {
			refs[i].Match = present{}
		}
	}
	for i := range subsets {
		if subsets[i].Match != nil {
			subsets[i].Match = present{}
		}
	}
	return refs, subsets
}

// compareInstances is the order in which a service's instances are handed out.
// Of two at one address the first is kept, so one that is in the mesh comes
// first, and one that callers may not have last.
func compareInstances(a, b *Instance) int {
	in := func(i *Instance) int {
		switch {
		case i.Barred != "":
			return 2
		case i.In:
			return 0
		}
		return 1
	}
	return cmp.Or(
		a.Addr.Compare(b.Addr),
		cmp.Compare(in(a), in(b)),
		cmp.Compare(a.Source, b.Source),
		cmp.Compare(a.Datacenter, b.Datacenter),
		cmp.Compare(a.Namespace, b.Namespace),
		cmp.Compare(a.Node, b.Node),
		cmp.Compare(a.Workload, b.Workload),
		cmp.Compare(a.ID, b.ID),
		cmp.Compare(a.Registered, b.Registered),
	)
}

func comparePos(a, b Pos) int {
	return cmp.Or(cmp.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
}
