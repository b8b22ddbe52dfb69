// Package seal keeps a node's secrets and state in files that survive a crash.
//
// Promises: a file is written whole or not at all, mode 0600; one that is
// damaged, of another kind, of a later version or sealed with another key is
// told apart from one that is not there, and is never believed.
//
// The limits: the key lies on the same machine, readable by root and the
// agent's user. A copied or backed-up data directory without the key tells
// nothing; whoever is root on the node can read everything.
package seal
