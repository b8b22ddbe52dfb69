// Package dns answers mesh names on a node and forwards every other question to
// the host's own resolvers.
//
// Promises: mesh names are answered from what it was told last, with every
// server and registry away; it answers nobody beyond the host; an answer never
// has more bytes than its asker allows; garbage is dropped.
package dns
