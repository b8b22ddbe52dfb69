// Package plan decides, purely, what one proxy must do.
//
// Promises: the same snapshot and node give the same plan, byte for byte; a plan
// depends on nothing but the keys that its View recorded; what Compiler keeps is
// what Compile would make from nothing; a user's mistake is a Problem and never
// stops the rest.
package plan
