// Package server wires sources, compiler, ADS, CA and API into a control plane.
//
// Promises: it carries no user traffic; killed at any moment, every Envoy goes
// on with what it last accepted; it answers no proxy before it knows; no port
// of it but health answers without authentication.
package server
