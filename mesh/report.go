package mesh

import "time"

// SourceState is how far a source can be believed at the moment.
type SourceState string

const (
	SourceOK       SourceState = "ok"       // its last answer was whole
	SourceStale    SourceState = "stale"    // it has not spoken for too long, or answered from the past
	SourceDenied   SourceState = "denied"   // it refused our token
	SourceError    SourceState = "error"    // it could not be asked, or its answer not be read
	SourceFiltered SourceState = "filtered" // it left out what our token may not see
)

// SourceReport is what a source says of itself. Whatever the state, what it
// said last goes on counting: unknown is not empty.
type SourceReport struct {
	State             SourceState
	Since             time.Time // of its last whole answer; zero: none yet
	Trouble           time.Time // of its last answer that was not; zero: none yet
	Err               string    // one sentence; "" when ok
	Services          int       // scopes it knows something of
	Watches           int       // open long polls or streams
	RequestsPerSecond float64   // over the last minute
	Healed            int       // differences found by a full re-read: changes its watches had missed
}
