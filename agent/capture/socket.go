package capture

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
)

// socket is one line of /proc/net/tcp or tcp6.
type socket struct {
	local, peer netip.AddrPort
	state       int
	uid         uint32
	inode       uint64
}

// Of include/net/tcp_states.h.
const (
	established = 1
	synSent     = 2
	listen      = 10
)

// sockets are the TCP sockets of the calling thread's network namespace.
func sockets() ([]socket, error) {
	var all []socket
	for _, name := range []string{"tcp", "tcp6"} {
		text, err := os.ReadFile("/proc/thread-self/net/" + name)
		if os.IsNotExist(err) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return nil, fmt.Errorf("listing open connections: %w", err)
		}
		all = append(all, parseSockets(string(text))...)
	}
	return all, nil
}

func parseSockets(text string) []socket {
	var out []socket
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 10 {
			continue
		}
		local, ok1 := parseEndpoint(f[1])
		peer, ok2 := parseEndpoint(f[2])
		state, err1 := strconv.ParseInt(f[3], 16, 32)
		uid, err2 := strconv.ParseUint(f[7], 10, 32)
		inode, err3 := strconv.ParseUint(f[9], 10, 64)
		if ok1 && ok2 && err1 == nil && err2 == nil && err3 == nil {
			out = append(out, socket{local, peer, int(state), uint32(uid), inode})
		}
	}
	return out
}

// parseEndpoint reads an address in hexadecimal, each 32 bits of it in the
// machine's own order, and a port in network order.
func parseEndpoint(s string) (netip.AddrPort, bool) {
	address, port, ok := strings.Cut(s, ":")
	raw, err := hex.DecodeString(address)
	n, errPort := strconv.ParseUint(port, 16, 16)
	if !ok || err != nil || errPort != nil || (len(raw) != 4 && len(raw) != 16) {
		return netip.AddrPort{}, false
	}
	for i := 0; i < len(raw); i += 4 {
		binary.BigEndian.PutUint32(raw[i:], binary.NativeEndian.Uint32(raw[i:]))
	}
	a, ok := netip.AddrFromSlice(raw)
	return netip.AddrPortFrom(a.Unmap(), uint16(n)), ok
}

// listening tells whether a program of the namespace listens on a port.
func listening(netns string, port uint16) bool {
	found := false
	err := InNamespace(netns, func() error {
		all, err := sockets()
		for _, s := range all {
			found = found || (s.state == listen && s.local.Port() == port)
		}
		return err
	})
	return err == nil && found
}
