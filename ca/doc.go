// Package ca issues and rotates identities for callers that prove who they are.
//
// Promises: of a certificate request only the public key is used; a certificate
// carries exactly one SPIFFE ID, is no CA and never outlives its issuer; state on
// disk is the old one or the new one whenever the process is killed; state that
// is damaged, incomplete or not ours alone stops the start, and a second root is
// never made in place of one that was there.
package ca
