// Package serve keeps each Envoy's stream in step with its resources, over
// delta ADS.
//
// Promises: a stream gets nothing before the first Set of its proxy; only the
// latest set counts and at most one message waits for a slow client; a shared
// resource is marshalled once for all; a client that does not answer is closed;
// no goroutine outlives Wait.
package serve
