package main

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// runProgram is the application behind the data path: a short answer, at once.
func runProgram(at string) error {
	l, err := net.Listen("tcp", at)
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	body := []byte(strings.Repeat("x", 128))
	return http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(body) }))
}

// loader calls in closed loops, each on a connection of its own, which the
// windows of one case share. It writes and reads HTTP/1.1 by hand, so that most of
// the CPU is left to what is measured.
type loader struct {
	addr    string
	request [2][]byte // to keep the connection, to close it
	conns   []*wire
}

type wire struct {
	net.Conn
	r *bufio.Reader
}

// runLoad answers a line "<conns> <keep|new> <milliseconds>" with "<calls>
// <nanoseconds> <p50 ns> <p99 ns>", and "connect <addr> <times>" with the median of connect(2), ns.
func runLoad(hostport string) error {
	host, port, err := net.SplitHostPort(hostport)
	if err != nil {
		return fmt.Errorf("reading the target: %w", err)
	}
	ips, err := net.LookupHost(host)
	if err != nil {
		return fmt.Errorf("looking the target up: %w", err)
	}
	l := &loader{addr: net.JoinHostPort(ips[0], port)}
	for i, more := range []string{"", "Connection: close\r\n"} {
		l.request[i] = []byte("GET /bench HTTP/1.1\r\nHost: " + hostport + "\r\nUser-Agent: bench\r\n" + more + "\r\n")
	}
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		words := strings.Fields(in.Text())
		out, err := l.handle(words)
		if err != nil {
			out = "error " + strings.ReplaceAll(err.Error(), "\n", " ")
		}
		fmt.Println(out)
	}
	return nil
}

func (l *loader) handle(words []string) (string, error) {
	if len(words) != 3 {
		return "", errors.New("three words, please")
	}
	n, err := strconv.Atoi(words[2])
	if err != nil {
		return "", err
	}
	if words[0] == "connect" {
		addr := l.addr
		if words[1] != "-" {
			addr = words[1]
		}
		took, err := connects(addr, n)
		return fmt.Sprint(took.Nanoseconds()), err
	}
	c, err := strconv.Atoi(words[0])
	if err != nil {
		return "", err
	}
	return l.window(c, words[1] == "keep", time.Duration(n)*time.Millisecond)
}

// window calls for a while.
func (l *loader) window(c int, keep bool, d time.Duration) (string, error) {
	if !keep {
		c = max(1, c)
	} else if err := l.open(c); err != nil {
		return "", err
	}
	var mu sync.Mutex
	var all []time.Duration
	var failed error
	var wg sync.WaitGroup
	start := time.Now()
	for i := range c {
		wg.Go(func() {
			var mine []time.Duration
			var err error
			for now := start; err == nil && now.Sub(start) < d; {
				if keep {
					err = l.conns[i].call(l.request[0])
				} else {
					err = l.once()
				}
				then := now
				now = time.Now()
				mine = append(mine, now.Sub(then))
			}
			mu.Lock()
			defer mu.Unlock()
			all, failed = append(all, mine...), errors.Join(failed, err)
		})
	}
	wg.Wait()
	took := time.Since(start)
	if failed != nil {
		return "", failed
	}
	return fmt.Sprintf("%d %d %d %d", len(all), took.Nanoseconds(), quantile(all, 0.5).Nanoseconds(), quantile(all, 0.99).Nanoseconds()), nil
}

func (l *loader) open(c int) error {
	for len(l.conns) > c {
		l.conns[len(l.conns)-1].Close()
		l.conns = l.conns[:len(l.conns)-1]
	}
	for len(l.conns) < c {
		w, err := l.dial()
		if err != nil {
			return err
		}
		l.conns = append(l.conns, w)
		if err := w.call(l.request[0]); err != nil {
			return err
		}
	}
	return nil
}

func (l *loader) dial() (*wire, error) {
	conn, err := net.DialTimeout("tcp", l.addr, 5*time.Second)
	if err != nil {
		return nil, err
	}
	return &wire{conn, bufio.NewReader(conn)}, nil
}

func (l *loader) once() error {
	w, err := l.dial()
	if err != nil {
		return err
	}
	defer w.Close()
	return w.call(l.request[1])
}

// call sends a request and reads its answer, which must be a 200.
func (w *wire) call(request []byte) error {
	if err := w.SetDeadline(time.Now().Add(10 * time.Second)); err != nil {
		return err
	}
	if _, err := w.Write(request); err != nil {
		return err
	}
	length := -1
	for first := true; ; first = false {
		line, err := w.r.ReadSlice('\n')
		if err != nil {
			return err
		}
		if first && !bytes.HasPrefix(line, []byte("HTTP/1.1 200 ")) {
			return fmt.Errorf("answered %q", line)
		}
		if len(line) <= 2 {
			break
		}
		if name, value, _ := bytes.Cut(line, []byte(":")); bytes.EqualFold(name, []byte("content-length")) {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(value))); err != nil {
				return err
			}
		}
	}
	if length < 0 {
		return errors.New("an answer without a length")
	}
	_, err := io.CopyN(io.Discard, w.r, int64(length))
	return err
}

// connects is the median time of connect(2) to an address.
func connects(addr string, times int) (time.Duration, error) {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return 0, err
	}
	var all []time.Duration
	for range times {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return 0, err
		}
		start := time.Now()
		err = unix.Connect(fd, &unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().Unmap().As4()})
		all = append(all, time.Since(start))
		_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}) // leaves no TIME_WAIT
		_ = unix.Close(fd)
		if err != nil && !errors.Is(err, syscall.EINTR) {
			return 0, err
		}
		time.Sleep(200 * time.Microsecond) // whoever accepts it keeps up
	}
	return quantile(all, 0.5), nil
}
