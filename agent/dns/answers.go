package dns

import "sync/atomic"

// Answers counts what was answered since the server was made.
type Answers struct {
	Mesh     int64 // of the mesh's names
	Upstream int64 // by the host's own resolvers
	Failed   int64 // SERVFAIL, of either
}

type counters struct{ mesh, upstream, failed atomic.Int64 }

// Answers is what was answered so far.
func (s *Server) Answers() Answers {
	return Answers{Mesh: s.count.mesh.Load(), Upstream: s.count.upstream.Load(), Failed: s.count.failed.Load()}
}
