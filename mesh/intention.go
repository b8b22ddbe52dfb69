package mesh

// Intention is one intention block: who may call a destination. Label is a
// service's name, a prefix pattern ("batch-*") or "*".
type Intention struct {
	Label string
	Rules []Permission
	Open  string // cut | finish: what is open when the right is lost; "" is cut
	Pos   Pos
}

// Permission is one allow or deny block.
type Permission struct {
	Action Action
	Name   string
	From   []string // exact names, prefix patterns or "*"
	Except []string // callers this block does not speak of
	// For HTTP. All that are set must hold; none set is every request.
	Methods    []string
	Path       string
	PathPrefix string // whole segments, trailing slash ignored
	PathRegex  string
	Ports      []string // names of the destination's ports; none: all
	Pos        Pos
}
