package capture

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const probeTimeout = 2 * time.Second

// asWorkload runs do on a thread with the workload's user and network namespace;
// the thread ends with it.
func asWorkload(c Config, w Workload, do func() error) error {
	uid := uint32(0)
	if len(w.UIDs) > 0 {
		uid = w.UIDs[0]
	}
	for w.Netns != "" && slices.Contains(c.EnvoyUIDs, uid) {
		uid++ // anyone but Envoy is the workload there
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the runtime then ends the thread
		done <- func() error {
			if w.Netns != "" {
				h, err := netns.GetFromPath(w.Netns)
				if err != nil {
					return fmt.Errorf("opening network namespace %s: %w", w.Netns, err)
				}
				defer h.Close()
				if err := netns.Set(h); err != nil {
					return fmt.Errorf("entering network namespace %s: %w", w.Netns, err)
				}
			}
			// The owner match looks at the file system user of who made the socket.
			if _, err := unix.SetfsuidRetUid(int(uid)); err != nil {
				return fmt.Errorf("acting as user %d: %w", uid, err)
			}
			if now, _ := unix.SetfsuidRetUid(-1); uint32(now) != uid {
				return fmt.Errorf("acting as user %d: not permitted: run kerege capture verify as root, or give the agent CAP_SETUID", uid)
			}
			return do()
		}()
	}()
	return <-done
}

// connect is a system call at a time, because it must happen on this thread.
func connect(to netip.AddrPort) (fd int, from netip.AddrPort, err error) {
	fd, err = open(to, unix.SOCK_STREAM)
	if err != nil {
		return 0, from, err
	}
	from, err = localOf(fd)
	if err != nil {
		unix.Close(fd)
	}
	return fd, from, err
}

func open(to netip.AddrPort, kind int) (fd int, err error) {
	domain := unix.AF_INET
	var sa unix.Sockaddr = &unix.SockaddrInet4{Port: int(to.Port()), Addr: [4]byte(to.Addr().AsSlice()[:4])}
	if to.Addr().Is6() {
		domain, sa = unix.AF_INET6, &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
	}
	fd, err = unix.Socket(domain, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("opening a socket: %w", err)
	}
	limit := unix.NsecToTimeval(int64(probeTimeout))
	err = errors.Join(unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit), unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &limit))
	if err == nil {
		err = unix.Connect(fd, sa)
	}
	if errors.Is(err, unix.EINPROGRESS) {
		err = fmt.Errorf("no answer within %s", probeTimeout)
	}
	if err != nil {
		unix.Close(fd)
		return 0, fmt.Errorf("connecting to %s: %w", to, err)
	}
	return fd, nil
}

func localOf(fd int) (netip.AddrPort, error) {
	sa, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}, fmt.Errorf("asking for a socket's address: %w", err)
	}
	switch a := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port)), nil
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr).Unmap(), uint16(a.Port)), nil
	}
	return netip.AddrPort{}, fmt.Errorf("asking for a socket's address: it is %T", sa)
}

// askProbe asks for a name; any answer to it will do.
func askProbe(to netip.AddrPort) error {
	fd, err := open(to, unix.SOCK_DGRAM)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	query := []byte{0x6b, 0x67, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}
	for _, label := range []string{"kerege-probe", "mesh"} {
		query = append(append(query, byte(len(label))), label...)
	}
	query = append(query, 0, 0, 1, 0, 1)
	if _, err := unix.Write(fd, query); err != nil {
		return fmt.Errorf("asking the resolver: %w", err)
	}
	answer := make([]byte, 512)
	n, err := unix.Read(fd, answer)
	if err != nil {
		return fmt.Errorf("a query as the workload is not answered: is the agent's resolver running: %w", err)
	}
	if n < 12 || answer[0] != query[0] || answer[1] != query[1] || answer[2]&0x80 == 0 {
		return errors.New("a query as the workload is answered by something that is no resolver")
	}
	return nil
}

// ProbeMain is the program that connects from within a slice: it dials its
// argument, prints its own address, and holds the connection until in ends.
func ProbeMain(args []string, in io.Reader, out io.Writer) error {
	if len(args) != 1 {
		return errors.New("probing: one address:port is needed")
	}
	to, err := netip.ParseAddrPort(args[0])
	if err != nil {
		return fmt.Errorf("probing: %w", err)
	}
	fd, from, err := connect(to)
	if err != nil {
		return fmt.Errorf("probing: %w", err)
	}
	defer unix.Close(fd)
	fmt.Fprintln(out, from)
	_, err = io.Copy(io.Discard, in)
	return err
}

func dialFrom(ctx context.Context, argv []string, to netip.AddrPort, cgroup int, port uint16) error {
	ctx, cancel := context.WithTimeout(ctx, 2*probeTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], append(slices.Clone(argv[1:]), to.String())...)
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: cgroup}
	in, err := cmd.StdinPipe()
	if err != nil {
		return fmt.Errorf("starting the probe: %w", err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return fmt.Errorf("starting the probe: %w", err)
	}
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting the probe in the slice: %w", err)
	}
	line, readErr := bufio.NewReader(out).ReadString('\n')
	err = readErr
	if err == nil {
		var from netip.AddrPort
		if from, err = netip.ParseAddrPort(strings.TrimSpace(line)); err == nil {
			err = arrived(from, port)
		}
	}
	in.Close()
	waited := cmd.Wait()
	if readErr != nil {
		return fmt.Errorf("a connection from the slice does not arrive: %s", strings.TrimSpace(said.String()))
	}
	return errors.Join(err, waited)
}
