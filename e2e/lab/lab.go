// Package lab makes several hosts on one machine: network namespaces on a
// bridge that is itself in a namespace, so the machine's own interfaces, routes
// and rules are never touched.
//
// Promises: everything it makes carries the lab's name; Close removes all of it,
// also what a killed run of the same name left behind.
package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
)

// Lab is a set of hosts on one bridge.
type Lab struct {
	Name string // at most 8 bytes: it prefixes namespaces and interfaces
	Dir  string // short, for unix sockets; removed by Close

	mu    sync.Mutex
	hosts []*Host
	procs []*Proc
	next  int
}

// New makes an empty lab. Needs root, or root in a user namespace with a
// private mount of /run (see Reexec).
func New(name string) (*Lab, error) {
	if len(name) > 8 {
		return nil, fmt.Errorf("making lab: name %q is longer than 8 bytes", name)
	}
	l := &Lab{Name: name, next: 10}
	l.removeNamespaces()
	dir, err := os.MkdirTemp("", name+"-")
	if err != nil {
		return nil, fmt.Errorf("making lab: %w", err)
	}
	l.Dir = dir
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, fmt.Errorf("making lab: %w", err)
	}
	bridge := l.ns("br")
	for _, args := range [][]string{
		{"netns", "add", bridge},
		{"-n", bridge, "link", "set", "lo", "up"},
		{"-n", bridge, "link", "add", "br0", "type", "bridge"},
		{"-n", bridge, "addr", "add", "10.77.0.1/24", "dev", "br0"},
		{"-n", bridge, "addr", "add", "fd77::1/64", "dev", "br0", "nodad"},
		{"-n", bridge, "link", "set", "br0", "up"},
	} {
		if err := ip(args...); err != nil {
			l.Close()
			return nil, err
		}
	}
	return l, nil
}

// Host is one network namespace with an address on the bridge.
type Host struct {
	Name   string
	IP     netip.Addr
	IP6    netip.Addr
	NS     string // the namespace's name
	Dir    string // the host's own files
	lab    *Lab
	resolv string
}

// Host adds a host. Its DNS server is 10.77.0.1 (where nothing answers, unless
// a test puts something there) and its default route leads to the bridge.
func (l *Lab) Host(name string) (*Host, error) {
	l.mu.Lock()
	n := l.next
	l.next++
	l.mu.Unlock()
	h := &Host{
		Name: name, NS: l.ns(name), lab: l,
		IP:  netip.AddrFrom4([4]byte{10, 77, 0, byte(n)}),
		IP6: netip.MustParseAddr(fmt.Sprintf("fd77::%x", n)),
		Dir: filepath.Join(l.Dir, name),
	}
	if err := os.MkdirAll(h.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("making host %s: %w", name, err)
	}
	h.resolv = filepath.Join(h.Dir, "resolv.conf")
	if err := h.Nameserver("10.77.0.1"); err != nil {
		return nil, err
	}
	if err := h.wire(); err != nil {
		return nil, err
	}
	l.mu.Lock()
	l.hosts = append(l.hosts, h)
	l.mu.Unlock()
	return h, nil
}

// Rewire gives the host a new network namespace under the same name and with the
// same addresses, as a reboot does: no rule, route or connection is left.
func (h *Host) Rewire() error {
	// The cable first: a namespace goes in its own time, and takes its end along.
	if err := ip("-n", h.lab.ns("br"), "link", "del", h.port()); err != nil {
		return err
	}
	if err := ip("netns", "del", h.NS); err != nil {
		return err
	}
	return h.wire()
}

func (h *Host) wire() error {
	bridge, port := h.lab.ns("br"), h.port()
	for _, args := range [][]string{
		{"netns", "add", h.NS},
		{"-n", h.NS, "link", "set", "lo", "up"},
		{"link", "add", "eth0", "netns", h.NS, "type", "veth", "peer", "name", port, "netns", bridge},
		{"-n", bridge, "link", "set", port, "master", "br0", "up"},
		{"-n", h.NS, "addr", "add", h.IP.String() + "/24", "dev", "eth0"},
		{"-n", h.NS, "addr", "add", h.IP6.String() + "/64", "dev", "eth0", "nodad"},
		{"-n", h.NS, "link", "set", "eth0", "up"},
		{"-n", h.NS, "route", "add", "default", "via", "10.77.0.1"},
		{"-n", h.NS, "-6", "route", "add", "default", "via", "fd77::1"},
	} {
		if err := ip(args...); err != nil {
			return err
		}
	}
	return nil
}

// Nameserver sets the host's DNS server for programs started from now on.
func (h *Host) Nameserver(addr string) error {
	text := "nameserver " + addr + "\noptions timeout:1 attempts:1\n"
	if err := os.WriteFile(h.resolv, []byte(text), 0o644); err != nil {
		return fmt.Errorf("writing resolv.conf of %s: %w", h.Name, err)
	}
	return nil
}

// Unplug takes the host's cable out: packets vanish, nothing is reset.
func (h *Host) Unplug() error { return ip("-n", h.lab.ns("br"), "link", "set", h.port(), "down") }

// Plug puts it back.
func (h *Host) Plug() error { return ip("-n", h.lab.ns("br"), "link", "set", h.port(), "up") }

func (h *Host) port() string { return fmt.Sprintf("p%d", h.IP.As4()[3]) }

// Close kills what was started and removes what was made. It is safe to call twice.
func (l *Lab) Close() error {
	l.mu.Lock()
	procs := l.procs
	l.procs, l.hosts = nil, nil
	l.mu.Unlock()
	for i := len(procs) - 1; i >= 0; i-- {
		procs[i].Kill()
	}
	err := l.removeNamespaces()
	if l.Dir != "" {
		err = errors.Join(err, os.RemoveAll(l.Dir))
	}
	return err
}

func (l *Lab) ns(host string) string { return l.Name + "-" + host }

// removeNamespaces ends every process in this lab's namespaces and deletes them.
func (l *Lab) removeNamespaces() error {
	out, err := exec.Command("ip", "netns", "list").Output()
	if err != nil {
		return fmt.Errorf("listing namespaces: %w", err)
	}
	var errs []error
	for line := range strings.Lines(string(out)) {
		name, _, _ := strings.Cut(strings.TrimSpace(line), " ")
		if !strings.HasPrefix(name, l.Name+"-") {
			continue
		}
		pids, _ := exec.Command("ip", "netns", "pids", name).Output()
		for _, pid := range strings.Fields(string(pids)) {
			exec.Command("kill", "-9", pid).Run()
		}
		errs = append(errs, ip("netns", "del", name))
	}
	return errors.Join(errs...)
}

func ip(args ...string) error {
	out, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
