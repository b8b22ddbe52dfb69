// Package identity keeps this node's keys and certificates fresh.
//
// Promises: a private key is made here, never leaves the node, and is on disk
// only sealed; each renewal makes a new one; what is held goes on to be used
// until it expires, whatever the servers and the disk do; a certificate that
// does not verify, or is for another name or key, is never taken.
//
// Certificates are renewed between 40 % and 50 % of their life, so that at least
// half is always left. The wall clock is read again at least every 30 seconds:
// a machine that slept renews when it wakes.
package identity
