//go:build e2e

package cut

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// pairOf is a connection over loopback: the taken side and the one that called.
func pairOf(t *testing.T, network, host string) (taken, called net.Conn) {
	t.Helper()
	l, err := net.Listen(network, net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	if called, err = net.Dial(network, l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if taken, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { called.Close(); taken.Close() })
	return taken, called
}

func ends(c net.Conn) (local, peer netip.AddrPort) {
	return c.LocalAddr().(*net.TCPAddr).AddrPort(), c.RemoteAddr().(*net.TCPAddr).AddrPort()
}

// The kernel ends the very socket that is meant, for both sides, and no other.
func TestTheKernelEndsOneConnection(t *testing.T) {
	d, err := openDiag()
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	for _, at := range [][2]string{{"tcp4", "127.0.0.1"}, {"tcp6", "::1"}} {
		if at[0] == "tcp6" {
			if _, err := os.Stat("/proc/net/if_inet6"); err != nil {
				continue // a kernel without IPv6 has no such socket
			}
		}
		taken, called := pairOf(t, at[0], at[1])
		other, otherCalled := pairOf(t, at[0], at[1])
		local, peer := ends(taken)
		s, found, err := d.find(local, peer)
		if err != nil || !found {
			t.Fatalf("%s: found %v, %v", at[0], found, err)
		}
		list, err := d.search(local.Port(), peer)
		if err != nil || len(list) != 1 || list[0] != s || s.local() != local.Addr() {
			t.Errorf("%s: searched: %v, %v; want %v", at[0], list, err, s)
		}
		if all, err := d.cookies(); err != nil || !all[s.cookie()] {
			t.Errorf("%s: it is not among the %d: %v", at[0], len(all), err)
		}
		stale := s
		stale.id[40]++
		if gone, err := d.destroy(stale); !gone || err != nil {
			t.Errorf("%s: another cookie: gone %v, %v", at[0], gone, err)
		}
		if gone, err := d.destroy(s); gone || err != nil {
			t.Fatalf("%s: gone %v, %v", at[0], gone, err)
		}
		for side, c := range map[string]net.Conn{"taken": taken, "called": called} {
			c.SetReadDeadline(time.Now().Add(2 * time.Second))
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, syscall.ECONNABORTED) && !errors.Is(err, io.EOF) {
				t.Errorf("%s: the side that %s: %v", at[0], side, err)
			}
		}
		if gone, err := d.destroy(s); !gone || err != nil {
			t.Errorf("%s: again: gone %v, %v", at[0], gone, err)
		}
		if _, found, err := d.find(local, peer); found || err != nil {
			t.Errorf("%s: it is still found, though only a listener is there: %v", at[0], err)
		}
		if _, err := other.Write([]byte("x")); err != nil {
			t.Error(err)
		}
		if _, err := io.ReadFull(otherCalled, make([]byte, 1)); err != nil {
			t.Errorf("%s: another connection was hit: %v", at[0], err)
		}
	}
}

// A workload's sockets may be in a network namespace of its own.
func TestASocketInAnotherNamespace(t *testing.T) {
	enter := func(do func() error) error {
		done := make(chan error, 1)
		go func() {
			runtime.LockOSThread() // never unlocked: the thread, and with it the namespace, ends
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				done <- err
				return
			}
			lo, err := netlink.LinkByName("lo")
			if err == nil {
				err = netlink.LinkSetUp(lo)
			}
			if err == nil {
				err = do()
			}
			done <- err
		}()
		return <-done
	}
	var taken, called net.Conn
	p := New(Config{ID: "api/vm-1"})
	p.cfg.Enter = func(do func() error) error {
		return enter(func() error {
			l, err := net.Listen("tcp4", "127.0.0.1:0")
			if err != nil {
				return err
			}
			defer l.Close()
			if called, err = net.Dial("tcp4", l.Addr().String()); err != nil {
				return err
			}
			if taken, err = l.Accept(); err != nil {
				return err
			}
			return do()
		})
	}
	if _, err := p.reach(); err != nil {
		t.Fatal(err)
	}
	defer p.kernel.close()
	defer taken.Close()
	defer called.Close()
	local, peer := ends(taken)
	p.cfg.Accept = []uint16{local.Port()}
	s, found, err := p.find(place{peer, local})
	if err != nil || !found {
		t.Fatalf("found %v, %v", found, err)
	}
	if gone, err := p.destroy(s); gone || err != nil {
		t.Errorf("gone %v, %v", gone, err)
	}
	d, err := openDiag()
	if err != nil {
		t.Fatal(err)
	}
	defer d.close()
	if _, found, _ := d.find(local, peer); found {
		t.Error("this namespace has it, too: nothing was shown")
	}
}

// A captured connection's socket is not where its peer thinks it is.
func TestACapturedConnectionIsFoundByItsPeer(t *testing.T) {
	taken, _ := pairOf(t, "tcp4", "127.0.0.1")
	local, peer := ends(taken)
	p := New(Config{ID: "api/vm-1", InboundPort: local.Port()})
	for range 2 {
		s, found, err := p.find(place{peer, netip.MustParseAddrPort("10.9.9.9:8080")})
		if err != nil || !found || s.peer() != peer || p.near != local.Addr() {
			t.Errorf("found %v, %v, %v, near %s", found, s, err, p.near)
		}
	}
	if _, found, err := p.find(place{netip.AddrPortFrom(peer.Addr(), peer.Port()^1), netip.MustParseAddrPort("10.9.9.9:8080")}); found || err != nil {
		t.Errorf("one that is not there: %v, %v", found, err)
	}
	p.kernel.close()
}
