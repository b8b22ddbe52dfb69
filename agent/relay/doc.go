// Package relay carries Envoy's ADS stream to a control plane over mTLS, and
// from disk when there is none.
//
// Promises: Envoy is served at once from what was last accepted, whatever is
// away; a server hears of an acceptance only after Envoy has accepted, and of a
// refusal in Envoy's own words; Envoy is never shown a resource before those it
// names, unless they fail to come; a damaged file is refused with a sentence
// and kept aside; what a server sends twice is sent to Envoy once; no goroutine
// outlives Run.
package relay
