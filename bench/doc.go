// Command bench measures how long a change takes to reach every Envoy that
// depends on it, and what it costs: kerege beside a raw floor and a peer, in one
// run on one machine.
//
// Servers and clients are processes of their own; the clients subscribe and
// acknowledge as Envoy does. Rounds of kerege and the floor alternate, so that
// both meet the same noise. CPU is read from each process's own clock.
package main
