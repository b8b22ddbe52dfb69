package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"sync/atomic"
	"syscall"

	"github.com/hashicorp/go-hclog"

	"github.com/kerege/kerege/agent/capture"
	"github.com/kerege/kerege/agent/dns"
)

// will is the one line that an agent tells its stand-in before anything else.
type will struct {
	Memory  string      `json:"memory"` // the node's state, with the names
	DNS     dns.Options `json:"dns"`
	Sockets int         `json:"sockets"` // pairs of datagrams and streams, from descriptor 3
}

// standIn is the process that takes an agent's place when it dies: it holds
// copies of the resolver's sockets, so that no question is lost between the two.
type standIn struct {
	cmd *exec.Cmd
	in  io.WriteCloser
}

// startStandIn starts a command that calls StandIn, in a session of its own.
func startStandIn(argv []string, w will, sockets []pair) (*standIn, error) {
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Stderr = os.Stderr
	defer func() {
		for _, f := range cmd.ExtraFiles {
			f.Close()
		}
	}()
	for _, p := range sockets {
		for _, s := range []interface{ File() (*os.File, error) }{p.packets, p.streams} {
			f, err := s.File()
			if err != nil {
				return nil, fmt.Errorf("copying a socket for the stand-in: %w", err)
			}
			cmd.ExtraFiles = append(cmd.ExtraFiles, f)
		}
	}
	w.Sockets = len(sockets)
	w.DNS.Logger = nil
	line, err := json.Marshal(w)
	if err != nil {
		return nil, fmt.Errorf("telling the stand-in: %w", err)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("starting the stand-in: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting the stand-in: %w", err)
	}
	s := &standIn{cmd, in}
	if _, err := in.Write(append(line, '\n')); err != nil {
		return nil, errors.Join(fmt.Errorf("telling the stand-in: %w", err), s.stop())
	}
	return s, nil
}

// stop tells it that all is in order, and waits for its end.
func (s *standIn) stop() error {
	_, err := s.in.Write([]byte{'q'})
	err = errors.Join(err, s.in.Close(), s.cmd.Wait())
	if err != nil {
		return fmt.Errorf("stopping the stand-in: %w", err)
	}
	return nil
}

// StandIn waits on in for the end of the agent that started this process. When
// that died, it answers the names that the node remembers, on the agent's own
// sockets, and looks after the capture, until an agent is back or nothing is
// captured. stateDir is the capture's.
func StandIn(ctx context.Context, stateDir string, in io.Reader, log hclog.Logger) error {
	text := bufio.NewReader(in)
	line, err := text.ReadBytes('\n')
	var w will
	if err == nil {
		err = json.Unmarshal(line, &w)
	}
	if err != nil {
		log.Warn("nothing is known of the agent's resolver; its jump will go with it", "error", err)
	}
	w.DNS.Logger = log.Named("dns")
	server := dns.New(w.DNS)
	defer server.Close()
	sockets, err := inherited(w.Sockets)
	if err != nil {
		log.Warn("the agent's resolver cannot be taken over", "error", err)
	}
	var serving atomic.Bool
	ended := func() {
		m := openMemory(w.Memory, log)
		m.look(func(s *state) {
			if !s.Heard.IsZero() {
				server.SetNames(dnsNames(s.Names))
			}
		})
		for _, p := range sockets {
			server.Serve(p.packets, p.streams)
		}
		serving.Store(len(sockets) > 0)
		log.Warn("the agent died: standing in for it", "sockets", len(sockets))
	}
	return capture.Guard(ctx, capture.Options{StateDir: stateDir, Log: log, KeepDNS: serving.Load}, &endReader{text, ended})
}

// endReader calls ended once, before it passes on that the other end is gone.
type endReader struct {
	r     io.Reader
	ended func()
}

func (e *endReader) Read(b []byte) (int, error) {
	n, err := e.r.Read(b)
	if n == 0 && errors.Is(err, io.EOF) && e.ended != nil {
		e.ended()
		e.ended = nil
	}
	return n, err
}

// pair is one address of the resolver.
type pair struct {
	packets *net.UDPConn
	streams *net.TCPListener
}

// inherited takes the sockets that this process was started with.
func inherited(n int) ([]pair, error) {
	var out []pair
	for i := range n {
		datagrams, streams := os.NewFile(uintptr(3+2*i), "packets"), os.NewFile(uintptr(4+2*i), "streams")
		p, err1 := net.FilePacketConn(datagrams)
		l, err2 := net.FileListener(streams)
		datagrams.Close()
		streams.Close()
		if err := errors.Join(err1, err2); err != nil {
			return nil, fmt.Errorf("taking over the resolver's sockets: %w", err)
		}
		udp, is1 := p.(*net.UDPConn)
		tcp, is2 := l.(*net.TCPListener)
		if !is1 || !is2 {
			return nil, errors.New("taking over the resolver's sockets: they are no UDP and TCP sockets")
		}
		out = append(out, pair{udp, tcp})
	}
	return out, nil
}

// listenPair opens an address. A stand-in of the agent before may still answer
// there: both may, and both know the same names.
func listenPair(ctx context.Context, address string) (pair, error) {
	reuse := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) (err error) {
		const reusePort = 15 // SO_REUSEPORT: only processes of this same user may share
		e := c.Control(func(fd uintptr) { err = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, reusePort, 1) })
		return errors.Join(e, err)
	}}
	p, err := reuse.ListenPacket(ctx, "udp", address)
	if err != nil {
		return pair{}, fmt.Errorf("serving DNS: %w", err)
	}
	l, err := reuse.Listen(ctx, "tcp", p.LocalAddr().String())
	if err != nil {
		p.Close()
		return pair{}, fmt.Errorf("serving DNS: %w", err)
	}
	udp, is1 := p.(*net.UDPConn)
	tcp, is2 := l.(*net.TCPListener)
	if !is1 || !is2 {
		return pair{}, errors.Join(errors.New("serving DNS: no UDP and TCP sockets"), p.Close(), l.Close())
	}
	return pair{udp, tcp}, nil
}
