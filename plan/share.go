package plan

import (
	"reflect"
	"slices"
)

// What was made anew and is equal keeps its old pointer, piece by piece, so that
// whoever holds bytes made from it need not make them again.

func keepClusters(old, now []*Cluster) []*Cluster {
	i := 0
	for j, c := range now {
		for i < len(old) && old[i].Name < c.Name {
			i++
		}
		if i == len(old) || old[i].Name != c.Name {
			continue
		}
		if reflect.DeepEqual(old[i].Endpoints, c.Endpoints) {
			c.Endpoints = old[i].Endpoints
		}
		if reflect.DeepEqual(old[i], c) {
			now[j] = old[i]
		}
	}
	if slices.Equal(old, now) {
		return old
	}
	return now
}

func keepUpstream(old, now *Upstream) *Upstream {
	if old == nil || now == nil {
		return now
	}
	for i := range now.Ports {
		p := &now.Ports[i]
		for j := range old.Ports {
			o := &old.Ports[j]
			if o.Number == p.Number && reflect.DeepEqual(o.Route, p.Route) {
				p.Route = o.Route
			}
		}
	}
	if reflect.DeepEqual(old, now) {
		return old
	}
	return now
}

func keepPolicies(old, now []*Policy) []*Policy {
	for i, p := range now {
		for _, o := range old {
			if o.Name == p.Name && reflect.DeepEqual(o, p) {
				now[i] = o
			}
		}
	}
	if slices.Equal(old, now) {
		return old
	}
	return now
}

// keepProxy compares by the pointers of what is shared, which those above keep.
func keepProxy(old, now *Proxy) *Proxy {
	if old == nil {
		return now
	}
	for i, in := range now.Inbound {
		for _, o := range old.Inbound {
			if o != in && *o == *in {
				now.Inbound[i] = o
			}
		}
	}
	if equalNode(old.Node, now.Node) && old.Identity == now.Identity && old.Outside == now.Outside &&
		slices.Equal(old.Inbound, now.Inbound) && slices.Equal(old.Checks, now.Checks) && slices.Equal(old.Outbound, now.Outbound) {
		return old
	}
	return now
}

func equalNode(a, b Node) bool {
	return a.ID == b.ID && a.InboundPort == b.InboundPort && a.OutboundPort == b.OutboundPort && a.NoIPv6 == b.NoIPv6 && slices.Equal(a.Bridge, b.Bridge) &&
		slices.Equal(a.Explicit, b.Explicit) && slices.Equal(a.Accept, b.Accept)
}
