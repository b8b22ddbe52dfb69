package plan

import (
	"maps"
	"slices"

	"github.com/kerege/kerege/mesh"
)

// View is a snapshot that records which keys are read. It is the only way a
// plan looks at the mesh. It is for one goroutine.
type View struct {
	snap *mesh.Snapshot
	keys map[mesh.Key]struct{}
}

// NewView starts a record on a snapshot.
func NewView(snap *mesh.Snapshot) *View {
	return &View{snap: snap, keys: map[mesh.Key]struct{}{}}
}

// Keys lists what has been read, sorted.
func (v *View) Keys() []mesh.Key { return slices.SortedFunc(maps.Keys(v.keys), mesh.Key.Compare) }

func (v *View) read(kind mesh.Kind, name string) {
	v.keys[mesh.Key{Kind: kind, Name: name}] = struct{}{}
}

// Config is Snapshot.Config, recorded; so are the others.
func (v *View) Config() mesh.Config {
	v.read(mesh.KindMesh, "")
	return v.snap.Config()
}

func (v *View) Bundle() []byte {
	v.read(mesh.KindBundle, "")
	return v.snap.Bundle()
}

func (v *View) Away() []string {
	v.read(mesh.KindAway, "")
	return v.snap.Away()
}

func (v *View) Services() []mesh.ServiceName {
	v.read(mesh.KindServices, "")
	return v.snap.Services()
}

func (v *View) Open() []mesh.ServiceName {
	v.read(mesh.KindOpen, "")
	return v.snap.Open()
}

func (v *View) Service(name mesh.ServiceName) *mesh.Service {
	v.read(mesh.KindService, string(name))
	return v.snap.Service(name)
}

func (v *View) Instances(name mesh.ServiceName) []*mesh.Instance {
	v.read(mesh.KindInstances, string(name))
	return v.snap.Instances(name)
}

func (v *View) Route(name mesh.ServiceName) *mesh.Route {
	v.read(mesh.KindRoute, string(name))
	return v.snap.Route(name)
}

// Intentions reads a destination's own and each pattern's that matches it.
func (v *View) Intentions(dest mesh.ServiceName) []*mesh.Intention {
	v.read(mesh.KindIntention, string(dest))
	v.read(mesh.KindPatterns, "")
	for _, p := range v.snap.Patterns() {
		if mesh.MatchName(p, dest) {
			v.read(mesh.KindIntention, p)
		}
	}
	return v.snap.Intentions(dest)
}

// Destinations reads what names the caller, and the set of services only when
// one of the labels that name it is a pattern.
func (v *View) Destinations(caller mesh.ServiceName) []mesh.ServiceName {
	v.read(mesh.KindCallers, "")
	v.naming(string(caller))
	for _, p := range v.snap.CallerPatterns() {
		if mesh.MatchName(p, caller) {
			v.naming(p)
		}
	}
	return v.snap.Destinations(caller)
}

func (v *View) naming(token string) {
	v.read(mesh.KindCaller, token)
	if slices.ContainsFunc(v.snap.Naming(token), mesh.IsPattern) {
		v.read(mesh.KindServices, "")
	}
}
