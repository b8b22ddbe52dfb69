package registry

import (
	"errors"
	"maps"
	"reflect"
	"slices"
	"time"

	"github.com/kerege/kerege/mesh"
)

// servedMemory is how long the ports of a service that is gone are remembered.
const servedMemory = vipMemory

// servedTable is the durable table of the ports and protocols at which services
// are served, so that neither one odd instance nor a restart moves them. It
// belongs to the writer.
type servedTable struct {
	h     *Hub
	store store
	named map[string]served
	dirty bool
}

type served struct {
	Protocol mesh.Protocol     `json:",omitempty"`
	Ports    []mesh.ServedPort // sorted by number
	Gone     time.Time         `json:",omitzero"` // when its service was last seen; zero: it is there
}

func (h *Hub) loadServed() *servedTable {
	t := &servedTable{h: h, store: h.store("served", 1), named: map[string]served{}}
	if err := t.store.read(&t.named); err != nil && !errors.Is(err, errNoFile) {
		h.log.Error("the ports at which services were served are not known; they are taken anew from the registries", "error", err)
		clear(t.named)
	}
	return t
}

// parts are the table's parts at the start.
func (t *servedTable) parts() []mesh.Part {
	var list []mesh.Part
	for _, name := range slices.Sorted(maps.Keys(t.named)) {
		list = append(list, t.part(name))
	}
	return list
}

func (t *servedTable) part(name string) mesh.Part {
	p := mesh.Part{Source: "served", Scope: name}
	if e, has := t.named[name]; has {
		p.Served = []mesh.Served{{Service: mesh.ServiceName(name), Protocol: e.Protocol, Ports: e.Ports}}
	}
	return p
}

// note takes in what services serve now and forgets those gone for long. The
// table is on disk before anybody hears of it.
func (t *servedTable) note(now time.Time, snap *mesh.Snapshot, names []string) []mesh.Part {
	var parts []mesh.Part
	for _, name := range names {
		old, had := t.named[name]
		e := old
		if is, ok := snap.Served(mesh.ServiceName(name)); ok {
			e.Protocol, e.Ports = is.Protocol, is.Ports
		} else if !had {
			continue
		}
		switch here := snap.Service(mesh.ServiceName(name)) != nil; {
		case here:
			e.Gone = time.Time{}
		case e.Gone.IsZero():
			e.Gone = now
		}
		if had && reflect.DeepEqual(e, old) {
			continue
		}
		t.named[name], t.dirty = e, true
		parts = append(parts, t.part(name))
	}
	if !t.dirty {
		return nil
	}
	for name, e := range t.named {
		if !e.Gone.IsZero() && now.Sub(e.Gone) > servedMemory {
			delete(t.named, name)
			parts = append(parts, t.part(name))
		}
	}
	if err := t.store.write(t.named); err != nil {
		t.h.log.Error("the ports at which services are served are not on disk; a restart takes them anew from the registries", "error", err)
	} else {
		t.dirty = false
	}
	sortParts(parts)
	return parts
}

// touched are the names of the services that a change may have changed.
func touched(keys []mesh.Key) []string {
	var names []string
	for _, k := range keys {
		if k.Kind == mesh.KindService || k.Kind == mesh.KindInstances {
			names = append(names, k.Name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func everyName(snap *mesh.Snapshot) []string {
	var names []string
	for _, n := range snap.Services() {
		names = append(names, string(n))
	}
	return names
}
