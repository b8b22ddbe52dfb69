package capture

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// changes are the kernel's word that somebody changed the rules of nftables, on
// which iptables-nft writes, too. A flush is mended when it happens, where the next
// look would be seconds away, in which a workload's queries and calls go past the
// mesh. Legacy iptables tells nobody: its tables are looked at by the clock alone.
type changes struct {
	heard chan struct{}
	last  time.Time // the last look
}

// Between the first word of a change and the look at it, for a tool changes many
// rules at once; and at least between two looks, for some never stop.
const (
	settleFor  = 50 * time.Millisecond
	lookApart  = 2 * time.Second
	nftChanges = 1 << (unix.NFNLGRP_NFTABLES - 1)
)

// watch listens in the network namespace of the agent until stop is called. Where
// it cannot, the clock alone is left.
func (m *Manager) watch() (c *changes, stop func()) {
	c = &changes{heard: make(chan struct{}, 1)}
	f, err := openChanges()
	if err != nil {
		m.o.Log.Debug("changes of the rules are looked for by the clock alone", "error", err)
		return c, func() {}
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		buf := make([]byte, 64<<10)
		for {
			_, err := f.Read(buf)
			if err != nil && !errors.Is(err, unix.ENOBUFS) && !errors.Is(err, unix.EINTR) { // too many to be told one by one is a change, too
				return
			}
			select {
			case c.heard <- struct{}{}:
			default:
			}
		}
	})
	return c, func() { f.Close(); wg.Wait() }
}

func openChanges() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("listening for changes of the rules: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: nftChanges}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("listening for changes of the rules: %w", err)
	}
	return os.NewFile(uintptr(fd), "changes of nftables"), nil
}

// due waits until what was heard is worth a look, at most until the clock's own
// after wait.
func (c *changes) due(ctx context.Context, poke <-chan struct{}, wait time.Duration) {
	select {
	case <-ctx.Done():
	case <-poke: // a look that is wanted anyway
	case <-time.After(max(settleFor, time.Until(c.last.Add(min(wait, lookApart))))):
	}
}
