package capture

import (
	"fmt"
	"net/netip"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Listener is a program that listens on a TCP port.
type Listener struct {
	Port    uint16 `json:"port"`
	PID     int    `json:"pid"` // 0: may not be seen (needs CAP_SYS_PTRACE and CAP_DAC_READ_SEARCH)
	Program string `json:"program,omitempty"`
	UID     uint32 `json:"uid"`
	User    string `json:"user,omitempty"`
	Slice   string `json:"slice,omitempty"` // cgroup path of the innermost slice, "" if there is none
	Unit    string `json:"unit,omitempty"`
}

func (l Listener) String() string {
	return fmt.Sprintf(":%d, user %s, pid %d", l.Port, l.User, l.PID)
}

// Find returns who listens on the given ports (all where none is given) in a
// network namespace, by port.
func Find(netns string, ports ...uint16) ([]Listener, error) {
	var all []socket
	if err := InNamespace(netns, func() (err error) { all, err = sockets(); return err }); err != nil {
		return nil, err
	}
	byInode := map[uint64]*Listener{}
	seen := map[uint16]bool{}
	var out []*Listener
	for _, s := range all {
		port := s.local.Port()
		if s.state != listen || seen[port] || (len(ports) > 0 && !slices.Contains(ports, port)) {
			continue
		}
		seen[port] = true
		l := &Listener{Port: port, UID: s.uid, User: userName(s.uid)}
		byInode[s.inode] = l
		out = append(out, l)
	}
	findProcesses(byInode)
	slices.SortFunc(out, func(a, b *Listener) int { return int(a.Port) - int(b.Port) })
	list := make([]Listener, len(out))
	for i, l := range out {
		list[i] = *l
	}
	return list, nil
}

func userName(uid uint32) string {
	id := strconv.FormatUint(uint64(uid), 10)
	if u, err := user.LookupId(id); err == nil {
		return u.Username
	}
	return id
}

// findProcesses looks through every process's files for the sockets.
func findProcesses(byInode map[uint64]*Listener) {
	left := len(byInode)
	fds, _ := filepath.Glob("/proc/[0-9]*/fd")
	for _, dir := range fds {
		if left == 0 {
			return
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, e := range entries {
			link, err := os.Readlink(filepath.Join(dir, e.Name()))
			if err != nil {
				continue
			}
			text, ok := strings.CutPrefix(link, "socket:[")
			inode, err := strconv.ParseUint(strings.TrimSuffix(text, "]"), 10, 64)
			l := byInode[inode]
			if !ok || err != nil || l == nil || l.PID != 0 {
				continue
			}
			l.PID, _ = strconv.Atoi(strings.Split(dir, "/")[2])
			l.describe()
			left--
		}
	}
}

func (l *Listener) describe() {
	dir := fmt.Sprintf("/proc/%d/", l.PID)
	name, _ := os.ReadFile(dir + "comm")
	l.Program = strings.TrimSpace(string(name))
	groups, _ := os.ReadFile(dir + "cgroup")
	for line := range strings.Lines(string(groups)) {
		path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::/")
		if !ok {
			continue
		}
		if strings.HasSuffix(path, ".service") || strings.HasSuffix(path, ".scope") {
			l.Unit = filepath.Base(path)
			path = filepath.Dir(path)
		}
		if strings.HasSuffix(path, ".slice") {
			l.Slice = path
		}
	}
}

// SSHSessions finds the sessions that must survive: the one that SSH_CONNECTION
// speaks of (env; "" if there is none), and every open one to a listening sshd.
func SSHSessions(env string) ([]Session, error) {
	var out []Session
	if f := strings.Fields(env); len(f) == 4 {
		peer, err1 := netip.ParseAddrPort(joinPort(f[0], f[1]))
		local, err2 := netip.ParseAddrPort(joinPort(f[2], f[3]))
		if err1 == nil && err2 == nil {
			out = append(out, Session{local, peer})
		}
	}
	all, err := sockets()
	if err != nil {
		return out, err
	}
	listeners, err := Find("")
	if err != nil {
		return out, err
	}
	ports := []uint16{22}
	for _, l := range listeners {
		if l.Program == "sshd" {
			ports = append(ports, l.Port)
		}
	}
	for _, s := range all {
		session := Session{s.local, s.peer}
		if s.state == established && slices.Contains(ports, s.local.Port()) && !slices.Contains(out, session) {
			out = append(out, session)
		}
	}
	return out, nil
}

func joinPort(host, port string) string {
	if strings.Contains(host, ":") {
		return "[" + host + "]:" + port
	}
	return host + ":" + port
}
