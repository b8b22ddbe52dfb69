package envoy

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// States of a TCP socket in the kernel's tables.
const (
	established = "01"
	halfClosed  = "08" // the caller has said all that it had to say
	listening   = "0A"
)

// callers counts the connections that others have opened to an Envoy, by the
// kernel's account: those of its sockets whose port is one that it, or the Envoy
// that listens now, has open for everybody.
func callers(proc string, pid, listener int) (int, error) {
	own, err := socketsOf(proc, pid)
	if err != nil {
		return 0, err
	}
	theirs, err := socketsOf(proc, listener)
	if err != nil {
		return 0, err
	}
	ports, local := map[string]bool{}, []string{}
	for _, name := range []string{"tcp", "tcp6"} {
		text, err := os.ReadFile(filepath.Join(proc, fmt.Sprint(pid), "net", name))
		if err != nil && name == "tcp6" {
			continue // a host without IPv6
		}
		if err != nil {
			return 0, fmt.Errorf("reading the kernel's sockets: %w", err)
		}
		for line := range bytes.Lines(text) {
			f := strings.Fields(string(line))
			if len(f) < 10 {
				continue
			}
			_, port, _ := strings.Cut(f[1], ":")
			switch inode := f[9]; {
			case f[3] == listening && (own[inode] || theirs[inode]):
				ports[port] = true
			case (f[3] == established || f[3] == halfClosed) && own[inode]:
				local = append(local, port)
			}
		}
	}
	n := 0
	for _, port := range local {
		if ports[port] {
			n++
		}
	}
	return n, nil
}

// socketsOf are the inodes of a process's sockets.
func socketsOf(proc string, pid int) (map[string]bool, error) {
	dir := filepath.Join(proc, fmt.Sprint(pid), "fd")
	list, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("reading Envoy's descriptors: %w", err)
	}
	out := map[string]bool{}
	for _, e := range list {
		to, err := os.Readlink(filepath.Join(dir, e.Name()))
		if err != nil {
			continue // closed meanwhile
		}
		if inode, is := strings.CutPrefix(to, "socket:["); is {
			out[strings.TrimSuffix(inode, "]")] = true
		}
	}
	return out, nil
}
