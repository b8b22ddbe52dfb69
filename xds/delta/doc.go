// Package delta is the delta xDS protocol of one stream as a pure state
// machine: subscriptions, nonces, versions, order and ACK gates.
//
// Promises: no I/O, no clock of its own, no goroutine; a client is never told
// of what it has not been sent, and never sent twice what it holds.
package delta
