// Package registry merges what the sources say into the one current snapshot.
//
// Promises: one goroutine writes; a source that cannot see sends nothing and
// loses nothing, its age counts instead; nothing is published before every
// source has spoken or its last-good file stands in for it; a sudden loss of
// many endpoints is held back; virtual addresses, memberships and the last good
// answer survive a crash at any moment.
package registry
