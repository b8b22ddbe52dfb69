package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// openTerminal is a terminal, seen from the user and from the program.
func openTerminal(t *testing.T) (user, program *os.File) {
	t.Helper()
	user, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { user.Close() })
	if err := unix.IoctlSetPointerInt(int(user.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(user.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { program.Close() })
	return user, program
}

func echoes(t *testing.T, f *os.File) bool {
	t.Helper()
	is, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return is.Lflag&unix.ECHO != 0
}

func TestATokenIsNotShown(t *testing.T) {
	user, program := openTerminal(t)
	type answer struct {
		text string
		err  error
	}
	read := func(ctx context.Context) chan answer {
		got := make(chan answer, 1)
		go func() {
			text, err := readToken(&Call{terminal: terminal{in: program, out: io.Discard, err: io.Discard, ctx: ctx}})
			got <- answer{text, err}
		}()
		for range 500 { // until the terminal is set
			if !echoes(t, program) {
				return got
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Fatal("it still shows what is typed")
		return nil
	}
	got := read(t.Context())
	if _, err := user.WriteString("kerege join kj_secret\n"); err != nil {
		t.Fatal(err)
	}
	if a := <-got; a.err != nil || pasted(a.text) != "kj_secret" {
		t.Errorf("%+v", a)
	}
	if !echoes(t, program) {
		t.Error("the terminal is left without echo")
	}
	shown := make([]byte, 100)
	if n, err := user.Read(shown); err != nil || strings.Contains(string(shown[:n]), "kj_") {
		t.Errorf("shown: %q, %v", shown[:n], err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	got = read(ctx)
	cancel()
	if a := <-got; !errors.Is(a.err, context.Canceled) {
		t.Errorf("after Ctrl-C: %+v", a)
	}
	if !echoes(t, program) {
		t.Error("after Ctrl-C the terminal is left without echo")
	}
}
