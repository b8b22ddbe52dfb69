package mesh

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
	KindCaller                    // the destinations whose intentions name Name as a caller
	KindNode                      // what the registries place on a node
)

// Key names one thing that a reader of a snapshot may depend on. It is
// comparable, so a set of keys is a map.
type Key struct {
	Kind Kind
	Name string
}
