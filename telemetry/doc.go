// Package telemetry gives a process its logger, its metrics, and its word to
// systemd.
//
// Promises: nothing here is global; metric labels are bounded.
package telemetry
