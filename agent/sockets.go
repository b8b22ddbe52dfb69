package agent

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/kerege/kerege/agent/capture"
)

// pair is one address of the resolver.
type pair struct {
	netns   string // "" is the host's
	packets net.PacketConn
	streams net.Listener
}

func (p pair) close() error { return errors.Join(p.packets.Close(), p.streams.Close()) }

// listenPair opens an address in a network namespace.
func listenPair(netns, address string) (pair, error) {
	p := pair{netns: netns}
	err := capture.InNamespace(netns, func() (err error) {
		if p.packets, err = net.ListenPacket("udp", address); err != nil {
			return err
		}
		if p.streams, err = net.Listen("tcp", p.packets.LocalAddr().String()); err != nil {
			p.packets.Close()
		}
		return err
	})
	if err != nil {
		return pair{}, fmt.Errorf("serving DNS: %w", err)
	}
	return p, nil
}

// files are copies of the two sockets: one queue of questions, with two readers.
func (p pair) files() (held, error) {
	h := held{netns: p.netns}
	var out []*os.File
	for _, s := range []any{p.packets, p.streams} {
		f, err := duplicate(s)
		if err != nil {
			return held{}, errors.Join(fmt.Errorf("copying a socket: %w", err), closeAll(out))
		}
		out = append(out, f)
	}
	h.packets, h.streams = out[0], out[1]
	return h, nil
}

// duplicate is not the connection's own File: what that gives out is set to
// block, and with it the original, which then could not be closed any more.
func duplicate(socket any) (*os.File, error) {
	c, is := socket.(syscall.Conn)
	if !is {
		return nil, fmt.Errorf("%T has no descriptor", socket)
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return nil, err
	}
	var fd int
	var duplicated error
	err = raw.Control(func(from uintptr) { fd, duplicated = unix.FcntlInt(from, unix.F_DUPFD_CLOEXEC, 0) })
	if err = errors.Join(err, duplicated); err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), "socket"), nil
}

// held is a pair that another process reads, or may come to.
type held struct {
	netns            string
	packets, streams *os.File
}

// open makes a pair to be read of copies; what is held stays so.
func (h held) open() (pair, error) {
	packets, err := net.FilePacketConn(h.packets)
	if err != nil {
		return pair{}, fmt.Errorf("taking over a socket: %w", err)
	}
	streams, err := net.FileListener(h.streams)
	if err != nil {
		packets.Close()
		return pair{}, fmt.Errorf("taking over a socket: %w", err)
	}
	return pair{h.netns, packets, streams}, nil
}

func (h held) close() { _ = closeAll([]*os.File{h.packets, h.streams}) }

// current tells whether the network namespace is still the one at its path.
func (h held) current() bool {
	if h.netns == "" {
		return true
	}
	fd, err := unix.IoctlRetInt(int(h.packets.Fd()), unix.SIOCGSKNS)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	var mine, there unix.Stat_t
	return unix.Fstat(fd, &mine) == nil && unix.Stat(h.netns, &there) == nil && mine.Ino == there.Ino && mine.Dev == there.Dev
}

func closeAll(list []*os.File) error {
	var errs []error
	for _, f := range list {
		errs = append(errs, f.Close())
	}
	return errors.Join(errs...)
}

// notice is one message between an agent and its stand-in; one with a namespace
// carries a pair of sockets.
type notice struct {
	Will    *will   `json:"will,omitempty"`
	Netns   *string `json:"netns,omitempty"`
	Stop    bool    `json:"stop,omitempty"`    // the agent ends in order, and nobody is to stand in
	Leaving bool    `json:"leaving,omitempty"` // the agent ends in order, and is to be stood in for
	End     bool    `json:"end,omitempty"`     // no more sockets follow
	Gone    string  `json:"gone,omitempty"`    // a network namespace whose sockets are held no more
	Taken   bool    `json:"taken,omitempty"`
}

func send(c *net.UnixConn, n notice, h *held) error {
	text, err := json.Marshal(n)
	if err != nil {
		return fmt.Errorf("writing to another process: %w", err)
	}
	var rights []byte
	if h != nil {
		rights = unix.UnixRights(int(h.packets.Fd()), int(h.streams.Fd()))
	}
	if _, _, err := c.WriteMsgUnix(text, rights, nil); err != nil {
		return fmt.Errorf("writing to another process: %w", err)
	}
	return nil
}

func sendPair(c *net.UnixConn, h held) error { return send(c, notice{Netns: &h.netns}, &h) }

// receive returns io.EOF when the other process is gone. h is nil where the
// message carries no sockets.
func receive(c *net.UnixConn) (n notice, h *held, err error) {
	text, rights := make([]byte, 64<<10), make([]byte, unix.CmsgSpace(2*4))
	size, more, _, _, err := c.ReadMsgUnix(text, rights)
	if err != nil {
		return n, nil, err
	}
	var fds []int
	if list, err := unix.ParseSocketControlMessage(rights[:more]); err == nil {
		for _, m := range list {
			got, _ := unix.ParseUnixRights(&m)
			fds = append(fds, got...)
		}
	}
	var files []*os.File
	for _, fd := range fds {
		syscall.CloseOnExec(fd)
		files = append(files, os.NewFile(uintptr(fd), "socket"))
	}
	if err := json.Unmarshal(text[:size], &n); err != nil {
		return n, nil, errors.Join(fmt.Errorf("reading from another process: %w", err), closeAll(files))
	}
	if n.Netns == nil || len(files) != 2 {
		return n, nil, closeAll(files)
	}
	return n, &held{*n.Netns, files[0], files[1]}, nil
}
