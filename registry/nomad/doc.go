// Package nomad watches one Nomad region and reports the instances of the
// services that jobs register with provider = "nomad".
//
// Promises: every answer is classed, and only a whole one becomes a Part; no
// instance is lost, and no service empties, before a second read of that very
// service has confirmed it; what was said stays said while Nomad is away, and
// everything is read again now and then in case a notification was lost; Nomad
// is never asked in a hot loop.
//
// What Nomad's registrations do not hold is read beside them, once an allocation:
// the node's name, the service's meta (canary_meta while the allocation is a
// canary) and whether it is being stopped. A value that only the client
// interpolates ("${...}") is left out.
//
// Nomad keeps the results of checks on the client that runs them and notifies
// nobody. They are polled, an allocation at a time: each second until all of
// them have passed once, two minutes at most, then every CheckEvery (10 s), at most fifty
// requests a second in all, so that beyond 500 allocations with checks a failing
// one is noticed later. What cannot be polled keeps its last word; an allocation
// without checks is healthy.
//
// A token needs namespace "NAME" { policy = "read" } for each namespace that is
// named, or namespace "*" { policy = "read" } for all of them, and
// node { policy = "read" } where filters speak of a node's meta.
package nomad
