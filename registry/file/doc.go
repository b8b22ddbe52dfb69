// Package file reports what a directory of HCL says.
//
// Promises: all files are one transaction, and with one error the generation
// before goes on, over restarts too; unreadable is not deleted; files are looked
// at when the server starts and when it is told to, and by themselves only where
// watching is asked for; the last generations can be gone back to, and what is on
// disk then waits for an operator.
package file
