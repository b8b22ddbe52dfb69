package mesh

import (
	"math"
	"strings"
	"time"
)

// The stated defaults: what holds where neither a block nor a defaults block
// says otherwise. They are a careful operator's choice: no answer is cut for
// being long, a call that never reached the application is tried again, an
// instance that answers badly is left out for a while.
const (
	DefaultTrustDomain = "kerege.local"
	DefaultTimeout     = None            // streams and downloads live
	DefaultIdleTimeout = 5 * time.Minute // of a stream or TCP connection without a byte
	DefaultConnect     = 5 * time.Second // to open a connection to an instance

	DefaultRetryTimes = 2
	DefaultBudget     = 20.0 // percent of the calls in flight
	DefaultPerTry     = None
	DefaultBackoff    = 25 * time.Millisecond
	DefaultBackoffMax = 250 * time.Millisecond

	DefaultBalance = "least_request"

	// Envoy's own limits of 1024 lose calls on a busy host that set none, so
	// without a limits block there is none.
	DefaultLimit = uint32(math.MaxUint32)

	DefaultConsecutive5xx = uint32(5)
	DefaultInterval       = 10 * time.Second
	DefaultEject          = 30 * time.Second
	DefaultAtMost         = 50.0 // percent of the instances

	DefaultPort = uint16(80)
)

// DefaultRetryOn is when a call is tried again: what never reached the
// application, and, for safe methods alone (Retry.Safe), what got no answer.
func DefaultRetryOn() []string { return []string{"connect-failure", "refused-stream", "reset"} }

// Filled is the retry block with every stated default filled in. A nil block is the default one.
func (r *Retry) Filled() *Retry {
	var f Retry
	if r != nil {
		f = *r
	}
	fill(&f.Times, DefaultRetryTimes)
	if f.On == nil {
		f.On, f.Safe = DefaultRetryOn(), true
	}
	fill(&f.PerTry, DefaultPerTry)
	fill(&f.Backoff, DefaultBackoff)
	fill(&f.BackoffMax, max(DefaultBackoffMax, *f.Backoff))
	fill(&f.Budget, DefaultBudget)
	return &f
}

// Filled is the balance block with every stated default filled in. A nil
// SlowStart stays: a new instance takes its full share at once.
func (b *Balance) Filled() *Balance {
	var f Balance
	if b != nil {
		f = *b
	}
	if f.Policy == "" {
		f.Policy = DefaultBalance
	}
	return &f
}

// Filled is the limits block with every stated default filled in.
func (l *Limits) Filled() *Limits {
	var f Limits
	if l != nil {
		f = *l
	}
	fill(&f.MaxConnections, DefaultLimit)
	fill(&f.MaxPendingRequests, DefaultLimit)
	fill(&f.MaxConcurrentRequests, DefaultLimit)
	return &f
}

// Filled is the outlier block with every stated default filled in.
func (o *Outlier) Filled() *Outlier {
	var f Outlier
	if o != nil {
		f = *o
	}
	fill(&f.Consecutive5xx, DefaultConsecutive5xx)
	fill(&f.Interval, DefaultInterval)
	fill(&f.Eject, DefaultEject)
	fill(&f.AtMost, DefaultAtMost)
	return &f
}

func fill[T any](p **T, v T) {
	if *p == nil {
		*p = &v
	}
}

// filled is the mesh block with the safe defaults: strict, deny, registered.
func (c *Config) filled() Config {
	var f Config
	if c != nil {
		f = *c
	}
	if f.TrustDomain == "" {
		f.TrustDomain = DefaultTrustDomain
	}
	if f.MTLS == MTLSUnset {
		f.MTLS = MTLSStrict
	}
	if f.DefaultIntention == ActionUnset {
		f.DefaultIntention = ActionDeny
	}
	if f.Outbound == OutboundUnset {
		f.Outbound = OutboundRegistered
	}
	return f
}

// resolve gives a service's tuning: its block, then the defaults blocks that
// match (longest label first, defaults is in that order), then the stated
// defaults. fromRegistry is the protocol its registries name; it ranks between
// the block and the defaults blocks.
func (t Tuning) resolve(name ServiceName, fromRegistry Protocol, defaults []*Defaults) Tuning {
	first(&t.Protocol, fromRegistry)
	for _, d := range defaults {
		if !MatchName(d.Label, name) {
			continue
		}
		first(&t.Protocol, d.Protocol)
		first(&t.Timeout, d.Timeout)
		first(&t.IdleTimeout, d.IdleTimeout)
		first(&t.Retry, d.Retry)
		first(&t.Balance, d.Balance)
		first(&t.Limits, d.Limits)
		first(&t.Outlier, d.Outlier)
		first(&t.Places, d.Places)
		first(&t.DialedDirectly, d.DialedDirectly)
	}
	fill(&t.Timeout, DefaultTimeout)
	fill(&t.IdleTimeout, DefaultIdleTimeout)
	fill(&t.DialedDirectly, false)
	t.Retry, t.Balance = t.Retry.Filled(), t.Balance.Filled()
	t.Limits, t.Outlier = t.Limits.Filled(), t.Outlier.Filled()
	return t
}

// first keeps *p when it says something, else takes v.
func first[T comparable](p *T, v T) {
	var unset T
	if *p == unset {
		*p = v
	}
}

// longer orders labels by how narrow they are: a name before any pattern, a
// longer pattern before a shorter one.
func longer(a, b string) int {
	if pa, pb := IsPattern(a), IsPattern(b); pa != pb {
		if pb {
			return -1
		}
		return 1
	}
	if len(a) != len(b) {
		return len(b) - len(a)
	}
	return strings.Compare(a, b)
}
