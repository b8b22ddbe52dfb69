package ca

import (
	"net/netip"
	"sync"
	"time"
)

// tries allows each address one try a second. An IPv6 client has a whole /64,
// so that counts as one address.
type tries struct {
	mu   sync.Mutex
	last map[string]time.Time
}

const maxAddresses = 1 << 16

func (t *tries) allow(address string, now time.Time) bool {
	if ip, err := netip.ParseAddr(address); err == nil {
		if ip = ip.Unmap().WithZone(""); ip.Is6() {
			p, _ := ip.Prefix(64)
			ip = p.Addr()
		}
		address = ip.String()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.last == nil {
		t.last = map[string]time.Time{}
	}
	recent := func(at time.Time) bool { d := now.Sub(at); return d >= 0 && d < time.Second }
	if recent(t.last[address]) {
		return false
	}
	if len(t.last) >= maxAddresses {
		for a, at := range t.last {
			if !recent(at) {
				delete(t.last, a)
			}
		}
		if len(t.last) >= maxAddresses {
			return false
		}
	}
	t.last[address] = now
	return true
}
