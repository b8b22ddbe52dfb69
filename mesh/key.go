package mesh

import "cmp"

// Kind says what a Key names.
type Kind uint8

const (
	KindMesh      Kind = iota + 1 // the mesh block; Name is ""
	KindDefaults                  // all defaults blocks together; Name is ""
	KindBundle                    // the trust bundle; Name is ""
	KindServices                  // the set of service names; Name is ""
	KindService                   // one service's effective settings
	KindInstances                 // one service's instances, who of them is in the mesh included
	KindRoute                     // one service's route
	KindIntention                 // the intentions whose label is Name (a service, a pattern or "*")
	KindPatterns                  // the set of intention labels that are patterns; Name is ""
	KindCaller                    // the intentions and retained pairs that name Name (a service, a pattern or "*") as a caller
	KindNode                      // what the registries place on a node
	KindCallers                   // the set of callers' names that are patterns; Name is ""
	KindOpen                      // the set of services whose default intention is allow; Name is ""
	KindAway                      // the marks of nodes that are trusted no more; Name is ""
)

// Key names one thing that a reader of a snapshot may depend on. It is
// comparable, so a set of keys is a map.
type Key struct {
	Kind Kind
	Name string
}

var kindNames = [...]string{"", "mesh", "defaults", "bundle", "services", "service", "instances", "route", "intention", "patterns", "caller", "node", "callers", "open", "away"}

// String is "service api", or "mesh" where there is no name.
func (k Key) String() string {
	kind := "unknown"
	if int(k.Kind) < len(kindNames) {
		kind = kindNames[k.Kind]
	}
	if k.Name == "" {
		return kind
	}
	return kind + " " + k.Name
}

// Compare orders keys by kind, then name.
func (k Key) Compare(o Key) int {
	if c := cmp.Compare(k.Kind, o.Kind); c != 0 {
		return c
	}
	return cmp.Compare(k.Name, o.Name)
}
