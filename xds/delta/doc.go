// Package delta is the delta xDS protocol of one stream as a pure state
// machine: subscriptions, nonces, versions, order and ACK gates.
//
// Promises: no I/O, no clock of its own, no goroutine; a client is never told
// of what it has not been sent, and never sent twice what it holds, unless it
// asks or the protocol wants it (the endpoints of a cluster that is sent).
//
// Additions go secrets, clusters, endpoints, listeners, routes, extensions;
// removals go after, who names before who is named. A listener or route waits
// until the clusters that it names are acknowledged with their endpoints. Every
// wait ends after Options.Gate.
package delta
