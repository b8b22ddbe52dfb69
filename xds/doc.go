// Package xds says a plan in Envoy's words.
//
// Promises: it is pure; equal plans give equal bytes, whoever translates them
// and however often; a unit that proxies share (an upstream, a policy) becomes
// one group of resources, marshalled and hashed once and shared by pointer for
// as long as the plan holds the unit; policy, routes and certificates are never
// inside a listener, so that a change of theirs drains none.
package xds
