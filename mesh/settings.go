package mesh

import "time"

// None is the duration a user writes as "none": switched off, for good.
const None time.Duration = -1

// Config is the mesh block.
type Config struct {
	TrustDomain      string
	MTLS             MTLS
	DefaultIntention Action
	Outbound         Outbound
	OneHost          bool // all is on this host, so that loopback addresses may be called (kerege dev)
	Pos              Pos
}

// Tuning is what a defaults block and a service block may both say of a
// service. A nil pointer, zero string or empty block is "not said here".
type Tuning struct {
	Protocol    Protocol
	Timeout     *time.Duration // whole answer; None switches it off
	IdleTimeout *time.Duration // None switches it off
	Retry       *Retry
	Balance     *Balance
	Limits      *Limits
	Outlier     *Outlier
	Places      *Places // where its instances may be; nil: wherever a registry says
	// DialedDirectly: callers may dial the instances' own addresses, too, and each
	// then gets that very instance.
	DialedDirectly *bool
}

// Defaults is one defaults block. Label is "*", a prefix pattern such as
// "batch-*", or a service's name; the longest that matches wins, argument by
// argument.
type Defaults struct {
	Label string
	Tuning
	Pos Pos
}

// Retry says when a call is tried again.
type Retry struct {
	Times      *int     // tries after the first; 0 never
	On         []string // connect-failure, refused-stream, reset, gateway-error, 5xx, or a status code such as "503"
	Safe       bool     // On is the stated default: what may have reached the application is for GET, HEAD and OPTIONS alone, not PUT and DELETE
	AnyMethod  bool     // whatever the method
	PerTry     *time.Duration
	Backoff    *time.Duration
	BackoffMax *time.Duration
	Budget     *float64 // percent of the calls in flight
	Pos        Pos
}

// Balance says which instance a call goes to.
type Balance struct {
	Policy    string // round_robin random least_request ring_hash maglev
	SlowStart *time.Duration
	Hash      *Hash
	Pos       Pos
}

// Hash says what ring_hash and maglev hash on; exactly one field is set.
type Hash struct {
	Header   string
	Cookie   string
	Query    string
	SourceIP bool
	Pos      Pos
}

// Limits are Envoy's circuit breakers, of each calling proxy towards all of a service.
type Limits struct {
	MaxConnections        *uint32
	MaxPendingRequests    *uint32
	MaxConcurrentRequests *uint32
	Pos                   Pos
}

// Outlier says when an instance that answers badly is left out for a while.
type Outlier struct {
	Consecutive5xx *uint32
	Interval       *time.Duration
	Eject          *time.Duration
	AtMost         *float64 // percent of the instances
	Off            bool
	Pos            Pos
}
