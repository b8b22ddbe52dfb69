package telemetry

import (
	"fmt"
	"net"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// Notifier speaks to systemd over $NOTIFY_SOCKET. Without one it does nothing.
type Notifier struct{ socket string }

// NewNotifier reads NOTIFY_SOCKET.
func NewNotifier() Notifier { return Notifier{socket: os.Getenv("NOTIFY_SOCKET")} }

// Ready says READY=1 with a status line.
func (n Notifier) Ready(status string) error { return n.send("READY=1\nSTATUS=" + status) }

// Status says what the process does now, for `systemctl status`.
func (n Notifier) Status(status string) error { return n.send("STATUS=" + status) }

// Stopping says that the process is on its way down.
func (n Notifier) Stopping() error { return n.send("STOPPING=1") }

// Reloading says RELOADING=1 with the monotonic time that Type=notify-reload asks
// for. Reloaded must follow, whatever came of it.
func (n Notifier) Reloading() error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return fmt.Errorf("notifying systemd: %w", err)
	}
	return n.send("RELOADING=1\nMONOTONIC_USEC=" + strconv.FormatInt(now.Nano()/1000, 10))
}

// Reloaded ends what Reloading began; the status line stays.
func (n Notifier) Reloaded() error { return n.send("READY=1") }

// Alive feeds the watchdog; call it only after a real check of oneself.
func (n Notifier) Alive() error { return n.send("WATCHDOG=1") }

// WatchdogEvery is how often Alive is due: half of WATCHDOG_USEC; 0 means no watchdog.
func WatchdogEvery() time.Duration {
	usec, err := strconv.ParseInt(os.Getenv("WATCHDOG_USEC"), 10, 64)
	if err != nil || usec <= 0 {
		return 0
	}
	return time.Duration(usec) * time.Microsecond / 2
}

func (n Notifier) send(state string) error {
	if n.socket == "" {
		return nil
	}
	addr := n.socket
	if addr[0] == '@' { // an abstract socket
		addr = "\x00" + addr[1:]
	}
	c, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: addr, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("notifying systemd: %w", err)
	}
	defer c.Close()
	if _, err := c.Write([]byte(state)); err != nil {
		return fmt.Errorf("notifying systemd: %w", err)
	}
	return nil
}
