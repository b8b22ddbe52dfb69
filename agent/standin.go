package agent

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kerege/kerege/agent/dns"
)

// will is what an agent tells its stand-in before anything else.
type will struct {
	Memory string      `json:"memory"` // the node's state, with the names
	DNS    dns.Options `json:"dns"`
}

// standIn is the process that takes an agent's place when it dies. It is given
// copies of the resolver's sockets, so that no question is lost between the two.
type standIn struct {
	cmd  *exec.Cmd
	conn *net.UnixConn // its end is the agent's
}

// startStandIn starts a command that calls StandIn, in a session of its own.
func startStandIn(argv []string, w will, sockets []pair) (*standIn, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, fmt.Errorf("starting the stand-in: %w", err)
	}
	defer theirs.Close()
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Stdin, cmd.Stderr = theirs, os.Stderr
	if err := cmd.Start(); err != nil {
		ours.Close()
		return nil, fmt.Errorf("starting the stand-in: %w", err)
	}
	s := &standIn{cmd, ours}
	w.DNS.Logger = nil
	err = s.tell(notice{Will: &w})
	for _, p := range sockets {
		if err == nil {
			err = s.keep(p)
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("telling the stand-in: %w", err), s.stop())
	}
	return s, nil
}

// socketPair are the two ends of one connection; the second is for a child.
func socketPair() (ours *net.UnixConn, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	mine, theirs := os.NewFile(uintptr(fds[0]), "stand-in"), os.NewFile(uintptr(fds[1]), "agent")
	defer mine.Close()
	ours, err = unixConn(mine)
	if err != nil {
		return nil, nil, errors.Join(err, theirs.Close())
	}
	return ours, theirs, nil
}

func unixConn(f *os.File) (*net.UnixConn, error) {
	c, err := net.FileConn(f)
	if err != nil {
		return nil, err
	}
	u, is := c.(*net.UnixConn)
	if !is {
		return nil, errors.Join(fmt.Errorf("%s is no unix socket", f.Name()), c.Close())
	}
	return u, nil
}

// tell waits no longer than a second for a stand-in that does not listen.
func (s *standIn) tell(n notice) error {
	if err := s.conn.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	return send(s.conn, n, nil)
}

// keep gives it copies of one more pair.
func (s *standIn) keep(p pair) error {
	h, err := p.files()
	if err != nil {
		return err
	}
	defer h.close()
	if err := s.conn.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	return sendPair(s.conn, h)
}

// stop tells it that all is in order, and waits for its end.
func (s *standIn) stop() error {
	err := s.tell(notice{Stop: true})
	err = errors.Join(err, s.conn.Close(), s.cmd.Wait())
	if err != nil {
		return fmt.Errorf("stopping the stand-in: %w", err)
	}
	return nil
}
