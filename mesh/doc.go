// Package mesh holds the nouns of a mesh and the immutable snapshot of them.
//
// Promises: it imports nothing but the standard library; a Snapshot is never
// changed once built; everything it hands out is sorted; equal inputs, in any
// order, give equal snapshots.
package mesh
