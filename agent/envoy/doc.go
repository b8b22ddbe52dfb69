// Package envoy writes Envoy's bootstrap, starts the real Envoy, tells when it
// is ready, and drains it.
//
// Promises: Envoy is configured by nothing but the bootstrap and what its socket
// brings; its admin interface is a Unix socket of its user alone; it never
// outlives Launcher.Run, except when kerege itself is killed.
package envoy
