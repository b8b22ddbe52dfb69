package telemetry

import (
	"net"
	"path/filepath"
	"testing"
	"time"
)

func TestNotifySpeaksToTheSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "n")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	if err := NewNotifier().Ready("generation 7"); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 256)
	if err := c.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	n, err := c.Read(buf)
	if err != nil || string(buf[:n]) != "READY=1\nSTATUS=generation 7" {
		t.Fatalf("got %q, %v", buf[:n], err)
	}
	t.Setenv("NOTIFY_SOCKET", "")
	if err := NewNotifier().Ready("x"); err != nil {
		t.Fatal("no socket is not an error:", err)
	}
	t.Setenv("WATCHDOG_USEC", "30000000")
	if got := WatchdogEvery(); got != 15*time.Second {
		t.Errorf("watchdog every %s", got)
	}
}
