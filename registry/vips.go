package registry

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/kerege/kerege/mesh"
)

// vipMemory is how long the address of a service that is gone stays its own.
const vipMemory = 90 * 24 * time.Hour

// vips is the table of virtual IPv4 addresses in 240.0.0.0/4. It belongs to the
// writer. An address begins at the hash of the service's name, so that two
// servers agree unless two names meet; once given it stays, in use or not.
type vips struct {
	h     *Hub
	store store
	named map[string]vip
	taken map[netip.Addr]string
	dirty bool
}

type vip struct {
	V4   netip.Addr
	Gone time.Time // when its service was last seen; zero: it is there
}

func (h *Hub) loadVIPs() (*vips, error) {
	v := &vips{h: h, store: h.store("vips", 1), named: map[string]vip{}, taken: map[netip.Addr]string{}}
	if err := v.store.read(&v.named); err != nil && !errors.Is(err, errNoFile) {
		h.log.Error("virtual addresses are given anew, from the names' hashes; most stay the same", "error", err)
		clear(v.named)
	}
	for name, e := range v.named {
		if other, twice := v.taken[e.V4]; twice || !usableVIP(e.V4) {
			h.log.Error("a virtual address is not used", "service", name, "address", e.V4, "taken_by", other)
			delete(v.named, name)
			continue
		}
		v.taken[e.V4] = name
	}
	return v, nil
}

// parts are the table's parts at the start.
func (v *vips) parts() []mesh.Part {
	var list []mesh.Part
	for _, name := range slices.Sorted(maps.Keys(v.named)) {
		list = append(list, vipPart(name, v.named[name].V4))
	}
	return list
}

// assign gives an address to each service that has none and forgets those gone
// for long. The table is on disk before anybody hears of an address.
func (v *vips) assign(now time.Time, services []mesh.ServiceName) []mesh.Part {
	var parts []mesh.Part
	here := make(map[string]bool, len(services))
	for _, s := range services {
		name := string(s)
		here[name] = true
		e, has := v.named[name]
		if has && e.Gone.IsZero() {
			continue
		}
		v.dirty = true
		if !has {
			e.V4 = v.free(name)
			v.taken[e.V4] = name
			parts = append(parts, vipPart(name, e.V4))
		}
		e.Gone = time.Time{}
		v.named[name] = e
	}
	for name, e := range v.named {
		switch {
		case here[name]:
		case e.Gone.IsZero():
			e.Gone, v.dirty = now, true
			v.named[name] = e
		case now.Sub(e.Gone) > vipMemory:
			delete(v.named, name)
			delete(v.taken, e.V4)
			v.dirty = true
			parts = append(parts, mesh.Part{Source: "vips", Scope: name})
		}
	}
	if v.dirty {
		if err := v.store.write(v.named); err != nil {
			v.h.log.Error("new virtual addresses are not on disk; a restart gives them again from the names' hashes", "error", err)
		} else {
			v.dirty = false
		}
	}
	sortParts(parts)
	return parts
}

// free is the first address of the name's own sequence that nobody has.
func (v *vips) free(name string) netip.Addr {
	for i := 0; ; i++ {
		seed := name
		if i > 0 {
			seed += "#" + strconv.Itoa(i)
		}
		sum := sha256.Sum256([]byte(seed))
		n := binary.BigEndian.Uint32(sum[:]) | 0xf0000000
		a := netip.AddrFrom4([4]byte{byte(n >> 24), byte(n >> 16), byte(n >> 8), byte(n)})
		if _, taken := v.taken[a]; !taken && usableVIP(a) {
			return a
		}
	}
}

// usableVIP says whether an address may be a service's: in 240.0.0.0/4, not in
// its last /8 (the broadcast address is there), no network's first or last.
func usableVIP(a netip.Addr) bool {
	if !a.Is4() {
		return false
	}
	b := a.As4()
	return cmp.Compare(b[0], 240) >= 0 && b[0] < 255 && b[3] != 0 && b[3] != 255
}

func vipPart(name string, a netip.Addr) mesh.Part {
	return mesh.Part{Source: "vips", Scope: name, VIPs: []mesh.VIP{{Service: mesh.ServiceName(name), V4: a}}}
}
