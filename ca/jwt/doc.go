// Package jwt judges Nomad workload identities: tokens by which an allocation shows that it is the one it says.
//
// Promises: signatures of RS256, ES256 and EdDSA alone, by a key that Nomad
// publishes under the token's own key id, never by one that the token brings or
// that is built in; every claim is compared whole; keys that Nomad no longer
// confirms count for 24 hours and then for nothing; a token is never in an error
// or in a log.
package jwt
