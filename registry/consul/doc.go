// Package consul watches one Consul datacenter and reports the instances of its
// services.
//
// Promises: every answer is classed, and only a whole one becomes a Part; no
// instance is lost, and no service empties, before a consistent read has
// confirmed it; what was said stays said while Consul is away, and everything is
// read again now and then in case a notification was lost; Consul is never asked
// in a hot loop.
//
// Up to MaxWatches services (1,000, or as many as Consul's limit of connections a
// client leaves: 120 by its default, unless TLS brings HTTP/2) have a watch of
// their own, those that the mesh speaks of first; the rest are read in turn,
// fifty a second.
package consul
