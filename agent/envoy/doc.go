// Package envoy writes Envoy's bootstrap, starts the real Envoy, tells when it
// is ready, has a new one take over from it without a lost call, and drains it.
//
// Promises: Envoy is configured by nothing but the bootstrap and what its socket
// brings; its admin interface is a Unix socket of its user alone, and so is the
// way by which one takes over from another; no Envoy outlives Launcher.Run, and
// the kernel ends it when kerege itself is killed.
package envoy
