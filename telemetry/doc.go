// Package telemetry gives a process its logger, its metrics, and its word to
// systemd.
//
// Promises: nothing here is global; a secret's type prints [redacted]; metric
// labels are bounded.
package telemetry
