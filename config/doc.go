// Package config turns HCL text into mesh entries and settings, or into
// diagnostics with positions.
//
// Promises: a set of files is one transaction, whatever their order: with one
// error nothing of it is returned; hostile text is refused by limits before it
// reaches a recursive parser, never by a panic; one schema drives the parser,
// its suggestions and the generated reference; equal texts give equal results,
// sorted by name.
package config
