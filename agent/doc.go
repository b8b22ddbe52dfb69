// Package agent brings one node up step by step, and down in reverse.
//
// Promises: identity, servers, sds, relay, dns and capture start in this order
// and stop in the reverse; when one fails, those before it go on serving and it
// is tried again; what the servers said is kept on disk, so that a node restarts
// whole with every server away; an instance is in the mesh from the moment it
// holds its certificate, its Envoy has accepted its listeners and its capture
// was verified, and leaves only by Leave; no goroutine outlives Run.
package agent
