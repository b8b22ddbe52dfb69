package relay

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/hashicorp/go-hclog"
)

// Socket is a listener that only some users of this machine may speak to. Its
// folder belongs to the agent and is shared with the owner's group, so that
// either can make its own socket there.
type Socket struct {
	*net.UnixListener
	path  string
	peers []int
	log   hclog.Logger
}

// Listen makes the folder and the socket, mode 0600, owned by uid and gid; a
// negative id is the agent's own. Peers besides uid, root and the agent's own
// user are turned away.
func Listen(path string, uid, gid int, log hclog.Logger) (*Socket, error) {
	if log == nil {
		log = hclog.NewNullLogger()
	}
	dir := filepath.Dir(path)
	// The folder above is everybody's to pass through, this one is the proxy's.
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return nil, fmt.Errorf("making a socket's folder: %w", err)
	}
	if err := os.Mkdir(dir, 0o750); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("making a socket's folder: %w", err)
	}
	mode := fs.FileMode(0o700)
	if gid >= 0 && gid != os.Getegid() {
		if err := os.Chown(dir, -1, gid); err != nil {
			return nil, fmt.Errorf("giving a socket's folder to group %d: %w", gid, err)
		}
		mode = 0o770
	}
	if err := os.Chmod(dir, mode); err != nil {
		return nil, fmt.Errorf("closing a socket's folder: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("removing an old socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("listening on a proxy's socket: %w", err)
	}
	err = os.Chmod(path, 0o600)
	if err == nil && uid >= 0 && uid != os.Geteuid() {
		err = os.Chown(path, uid, -1)
	}
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("giving a proxy's socket to user %d: %w", uid, err)
	}
	return &Socket{UnixListener: l, path: path, peers: []int{0, os.Geteuid(), uid}, log: log}, nil
}

// Accept returns the next connection of a user who may be here.
func (s *Socket) Accept() (net.Conn, error) {
	for {
		c, err := s.AcceptUnix()
		if err != nil {
			return nil, err
		}
		uid, pid, err := Peer(c)
		if err == nil && slices.Contains(s.peers, uid) {
			return c, nil
		}
		s.log.Warn("a user who may not speak to this proxy's socket is turned away", "socket", s.path, "uid", uid, "pid", pid, "error", err)
		c.Close()
	}
}

// Peer asks the kernel who is at the other end: user and process, as they were
// when the connection was made.
func Peer(c *net.UnixConn) (uid, pid int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return -1, 0, fmt.Errorf("asking for a peer's credentials: %w", err)
	}
	var cred *syscall.Ucred
	if e := raw.Control(func(fd uintptr) {
		cred, err = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	}); e != nil {
		return -1, 0, fmt.Errorf("asking for a peer's credentials: %w", e)
	}
	if err != nil {
		return -1, 0, fmt.Errorf("asking for a peer's credentials: %w", err)
	}
	return int(cred.Uid), int(cred.Pid), nil
}
