package lab

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Dial connects from the host, to an address in numbers.
func (h *Host) Dial(ctx context.Context, network, address string) (net.Conn, error) {
	return h.DialFrom(ctx, "", network, address)
}

// DialFrom is Dial from one of the host's addresses, as Alias adds them; "" is any.
func (h *Host) DialFrom(ctx context.Context, source, network, address string) (net.Conn, error) {
	var d net.Dialer
	if source != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(source)}
	}
	type dialled struct {
		conn net.Conn
		err  error
	}
	done := make(chan dialled, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		ns, err := os.Open("/run/netns/" + h.NS)
		if err != nil {
			done <- dialled{nil, fmt.Errorf("dialling from %s: %w", h.Name, err)}
			return
		}
		defer ns.Close()
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- dialled{nil, fmt.Errorf("dialling from %s: %w", h.Name, err)}
			return
		}
		conn, err := d.DialContext(ctx, network, address)
		done <- dialled{conn, err}
	}()
	got := <-done
	return got.conn, got.err
}

// Alias gives the host one more address on the bridge.
func (h *Host) Alias(addr string) error {
	return ip("-n", h.NS, "addr", "add", addr+"/24", "dev", "eth0")
}
