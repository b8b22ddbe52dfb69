package mesh

// Part is everything that one source knows of one scope. A source that cannot
// see sends no Part: unknown is not empty. A Part replaces the one before it of
// the same Source and Scope, whole.
type Part struct {
	Source string // who says it: "file", "consul", "nomad", "ca", "members", "vips", "served", "retained", "allocations"
	Scope  string // what it is all about: a service's name for instances, members, VIPs, allocations and what is served; "" otherwise

	Mesh       *Config // only "file"
	Defaults   []Defaults
	Services   []ServiceConfig
	Routes     []Route
	Intentions []Intention

	Instances   []Instance
	Members     []Member
	VIPs        []VIP
	Served      []Served
	Retained    []Pair
	Allocations []Allocation
	Bundle      []byte   // PEM of the trusted roots
	Away        []string // the marks of nodes that are trusted no more
}

// Conflict is something two parts disagree on, or an entry that cannot be used.
// It is reported, the rest of the mesh goes on.
type Conflict struct {
	Key   Key
	Where []Pos
	What  string // one sentence
}
