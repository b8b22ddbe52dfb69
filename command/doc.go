// Package command is kerege's command line: one file a subcommand, each only
// flags, one call, and printing.
//
// Promises: every command takes -json, shows an example in its help, and exits
// 0 when all is well, 1 on an error, 2 on changes or findings, 3 when what it
// asks is degraded or cannot be reached; errors go to stderr.
package command
