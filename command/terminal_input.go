package command

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/mattn/go-isatty"
	"golang.org/x/sys/unix"
)

// readToken reads stdin up to the end of the line with the token: whoever pastes it
// presses Enter, and not Ctrl-D. A terminal does not show what is pasted.
func readToken(c *Call) (text string, err error) {
	in := c.in
	if f, ok := c.in.(*os.File); ok && isatty.IsTerminal(f.Fd()) {
		fmt.Fprint(c.err, "The token, from kerege token create (it is not shown): ")
		show, err := hideInput(f)
		if err != nil {
			return "", err
		}
		defer show()
		in = &patient{ctx: c.ctx, f: f}
	}
	r := bufio.NewReader(io.LimitReader(in, 4096))
	for {
		line, err := r.ReadString('\n')
		text += line
		switch {
		case strings.Contains(line, "kj_"), err == io.EOF:
			return text, nil
		case err != nil:
			return "", err
		}
	}
}

// hideInput keeps a terminal from showing what is typed, until show.
func hideInput(f *os.File) (show func(), err error) {
	fd := int(f.Fd())
	was, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("asking the terminal how it is set: %w", err)
	}
	hidden := *was
	hidden.Lflag = hidden.Lflag&^unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &hidden); err != nil {
		return nil, fmt.Errorf("keeping the terminal from showing the token: %w", err)
	}
	return func() { _ = unix.IoctlSetTermios(fd, unix.TCSETS, was) }, nil
}

// patient reads a terminal until a context ends: Ctrl-C must be able to end it,
// and the terminal be put right then.
type patient struct {
	ctx context.Context
	f   *os.File
}

func (p *patient) Read(b []byte) (int, error) {
	for {
		if err := p.ctx.Err(); err != nil {
			return 0, err
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(p.f.Fd()), Events: unix.POLLIN}}, 100)
		if err != nil && err != unix.EINTR {
			return 0, err
		}
		if n > 0 {
			return p.f.Read(b)
		}
	}
}
