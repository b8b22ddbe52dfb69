package capture

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"

	"github.com/vishvananda/netlink"
)

// routeOwner marks our routes, as ip route shows them: "proto 75".
const routeOwner netlink.RouteProtocol = 75

// Virtual addresses need a route, or connect fails before a packet is made; and
// with one to loopback, a call that no rule takes goes nowhere instead of to the
// network in plain text. The source is named because a host may have no address
// but loopback's, which the kernel does not choose by itself here.
func ownRoutes() []netlink.Route {
	var out []netlink.Route
	for _, r := range []struct {
		dst netip.Prefix
		src string
	}{{Virtual4, "127.0.0.1"}, {Virtual6, "::1"}} {
		out = append(out, netlink.Route{
			Dst: &net.IPNet{IP: r.dst.Addr().AsSlice(), Mask: net.CIDRMask(r.dst.Bits(), r.dst.Addr().BitLen())},
			Src: net.ParseIP(r.src), Protocol: routeOwner,
		})
	}
	return out
}

// addRoutes adds what is missing; a route of others to the same range is left as it is.
func addRoutes(ipv6 bool) (changed bool, err error) {
	return eachRoute(func(h *netlink.Handle, want *netlink.Route, there []netlink.Route) (bool, error) {
		if len(there) > 0 || (isV6(want) && !ipv6) {
			return false, nil
		}
		if err := h.RouteAdd(want); err != nil && !errors.Is(err, syscall.EEXIST) {
			return false, fmt.Errorf("adding route %s dev lo: %w", want.Dst, err)
		}
		return true, nil
	})
}

// removeRoutes takes out the routes that carry our mark.
func removeRoutes() (changed bool, err error) {
	return eachRoute(func(h *netlink.Handle, want *netlink.Route, there []netlink.Route) (bool, error) {
		removed := false
		for _, r := range there {
			if r.Protocol != routeOwner {
				continue
			}
			if err := h.RouteDel(&r); err != nil && !errors.Is(err, syscall.ESRCH) {
				return removed, fmt.Errorf("removing route %s: %w", want.Dst, err)
			}
			removed = true
		}
		return removed, nil
	})
}

func eachRoute(do func(h *netlink.Handle, want *netlink.Route, there []netlink.Route) (bool, error)) (changed bool, err error) {
	h, err := netlink.NewHandle(syscall.NETLINK_ROUTE)
	if err != nil {
		return false, fmt.Errorf("asking for routes: %w", err)
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err != nil {
		return false, fmt.Errorf("finding loopback: %w", err)
	}
	for _, want := range ownRoutes() {
		want.LinkIndex = lo.Attrs().Index
		family := netlink.FAMILY_V4
		if isV6(&want) {
			family = netlink.FAMILY_V6
		}
		there, err := h.RouteListFiltered(family, &netlink.Route{Dst: want.Dst}, netlink.RT_FILTER_DST)
		if err != nil && isV6(&want) {
			continue // a kernel without IPv6
		}
		if err != nil {
			return changed, fmt.Errorf("listing routes: %w", err)
		}
		did, err := do(h, &want, there)
		changed = changed || did
		if err != nil {
			return changed, err
		}
	}
	return changed, nil
}

func isV6(r *netlink.Route) bool { return r.Dst.IP.To4() == nil }

// hasIPv6 tells whether IPv6 is on in the calling thread's namespace.
func hasIPv6() bool {
	b, err := os.ReadFile("/proc/sys/net/ipv6/conf/lo/disable_ipv6")
	return err == nil && strings.TrimSpace(string(b)) == "0"
}
