// Package capture steers a workload's traffic through its Envoy with iptables.
//
// Promises: it writes only chains of its own and one jump in each of nat OUTPUT,
// nat PREROUTING and raw OUTPUT; what is live changes by one Replace; port 22, the
// operator's session and the ports by which a host is run are never taken;
// sessions that are open live on; Remove gives back what was there before, also
// after a kill at any point.
package capture
