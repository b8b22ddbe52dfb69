package delta

import (
	"slices"
	"time"
)

// State says how a type of one client stands.
type State string

const (
	Unasked State = "unasked" // the client has not asked for the type
	Synced  State = "synced"  // the client has accepted what it should have
	Stale   State = "stale"   // something is to be sent or not yet acknowledged
	Nacked  State = "nacked"  // the client refused something; the rest is as it should be or on its way
)

// Nack is a resource that a client refused.
type Nack struct {
	Type, Name string
	Version    string // refused
	Held       string // the last accepted version, "": none
	Words      string // the client's
	At         time.Time
	Cause      any       // of the resource
	Resource   *Resource // nil: gone since a reconnect
}

// TypeStatus is the state of one type.
type TypeStatus struct {
	Type       string
	State      State
	Since      time.Time // in this state
	Wildcard   bool
	Subscribed int               // names
	Versions   map[string]string // accepted, by name
	Waiting    []string          // names to be sent or acknowledged, sorted
	Nacks      []Nack            // sorted by name
	NackCount  int               // refusals on this stream
	Sent       time.Time         // last message
	Answered   time.Time         // last ACK or NACK
	Alarm      time.Time         // the last time that something went without the ACK it waited for
}

// Status is the state of a stream, one entry a type in the order of sending.
type Status struct {
	Types []TypeStatus
}

type history struct {
	state                        State
	since, sent, answered, alarm time.Time
	nacks                        int
}

// note keeps the time of the last change of state.
func (k *kind) note(now time.Time) {
	if st := k.state(); st != k.log.state {
		k.log.state, k.log.since = st, now
	}
}

func (k *kind) state() State {
	if !k.asked {
		return Unasked
	}
	if k.nacked > 0 {
		return Nacked
	}
	if len(k.flight) > 0 || k.answer || slices.ContainsFunc(k.todo, k.waits) {
		return Stale
	}
	return Synced
}

func (k *kind) waits(it *item) bool {
	if !k.covers(it) {
		return it.forced
	}
	return it.forced || it.want == nil && it.sent.version() != "" || it.want != nil && it.want.Version != it.acked.version()
}

// Unacked is when the oldest message was sent that the client has not answered;
// zero when it has answered all.
func (s *Session) Unacked() time.Time {
	var oldest time.Time
	for _, k := range s.order {
		if len(k.flight) > 0 && (oldest.IsZero() || k.flight[0].at.Before(oldest)) {
			oldest = k.flight[0].at
		}
	}
	return oldest
}

// Asked says whether the client has sent a request for the type.
func (s *Session) Asked(typ string) bool {
	k := s.kinds[typ]
	return k != nil && k.asked
}

// Status is a copy of the stream's state.
func (s *Session) Status() Status {
	var out Status
	for _, k := range s.order {
		if !k.asked {
			continue
		}
		ts := TypeStatus{Type: k.url, State: k.state(), Since: k.log.since, Wildcard: k.wild, Versions: map[string]string{},
			NackCount: k.log.nacks, Sent: k.log.sent, Answered: k.log.answered, Alarm: k.log.alarm}
		for id, it := range k.items {
			name := id.Value()
			if it.sub {
				ts.Subscribed++
			}
			if it.acked.version() != "" {
				ts.Versions[name] = it.acked.version()
			}
			if k.covers(it) && (it.want != nil || it.sent.version() != "") && (it.forced || it.sent != it.acked || k.waits(it)) {
				ts.Waiting = append(ts.Waiting, name)
			}
			if n := it.nack(); n != nil {
				ts.Nacks = append(ts.Nacks, *n)
			}
		}
		slices.Sort(ts.Waiting)
		slices.SortFunc(ts.Nacks, func(a, b Nack) int {
			if a.Name < b.Name {
				return -1
			}
			return 1
		})
		out.Types = append(out.Types, ts)
	}
	return out
}
