package registry

import (
	"net/netip"
	"slices"

	"github.com/kerege/kerege/mesh"
)

// Foresee is the snapshot that the hub would come to from snap if these parts were
// put: new services have their virtual addresses, and callers that lose a right
// still see the destination, as they will for Options.RetainFor. Nothing is kept.
func Foresee(snap *mesh.Snapshot, parts ...mesh.Part) *mesh.Snapshot {
	then, keys := snap.With(parts...)
	more := mesh.Part{Source: "retained"} // beside those that are kept already: theirs have a scope
	for _, k := range keys {
		if k.Kind != mesh.KindIntention {
			continue
		}
		is := named(then.Labelled(k.Name))
		for _, token := range named(snap.Labelled(k.Name)) {
			if !slices.Contains(is, token) {
				more.Retained = append(more.Retained, mesh.Pair{From: mesh.ServiceName(token), To: mesh.ServiceName(k.Name)})
			}
		}
	}
	list := append(foreseenVIPs(then), more)
	then, _ = then.With(list...)
	return then
}

// foreseenVIPs are the addresses of services that have none yet.
func foreseenVIPs(snap *mesh.Snapshot) []mesh.Part {
	v := vips{taken: map[netip.Addr]string{}}
	var without []string
	for _, name := range snap.Services() {
		if svc := snap.Service(name); svc.VIP4.IsValid() {
			v.taken[svc.VIP4] = string(name)
		} else {
			without = append(without, string(name))
		}
	}
	var parts []mesh.Part
	for _, name := range without {
		a := v.free(name)
		v.taken[a] = name
		parts = append(parts, vipPart(name, a))
	}
	return parts
}
