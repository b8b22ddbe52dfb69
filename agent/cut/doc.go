// Package cut ends what a caller that has lost its right still holds open.
//
// Promises: a connection is cut only when the rules its port has now deny what is
// open on it, and the socket is the very one that Envoy spoke of: the kernel's
// cookie says so, never an address alone; nothing here makes a call wait; what is
// remembered is bounded; no goroutine outlives Run.
package cut
