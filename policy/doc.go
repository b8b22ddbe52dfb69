// Package policy decides who may call whom: the reference answer, against which
// what Envoy enforces is tested.
package policy
