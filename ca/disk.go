package ca

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"github.com/kerege/kerege/durable"
)

// ErrDamaged is wrapped where state on disk cannot be trusted. Nothing on disk
// has been changed then.
var ErrDamaged = errors.New("state is damaged")

const maxState = 16 << 20

// disk writes files so that a crash leaves the old or the new one. step is
// called before every change of the disk: tests stop there.
type disk struct {
	step func(what string)
}

func (d disk) at(what string) {
	if d.step != nil {
		d.step(what)
	}
}

// write puts body into path, mode 0600, behind a line with its kind and checksum.
func (d disk) write(path, kind string, body []byte) error {
	if err := durable.WriteFileAt(path, append([]byte(header(kind, body)), body...), d.at); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

func header(kind string, body []byte) string {
	return fmt.Sprintf("kerege %s 1 %x\n", kind, sha256.Sum256(body))
}

// readFile gives the body of a file that write wrote. A file that is not there
// is fs.ErrNotExist; every other error says what is wrong with it.
func readFile(path, kind string) ([]byte, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if !info.Mode().IsRegular() || info.Size() > maxState {
		return nil, fmt.Errorf("%s: %w: it is no regular file of at most %d bytes", path, ErrDamaged, maxState)
	}
	if err := ours(path, info, 0o600); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	first, body, ok := bytes.Cut(text, []byte("\n"))
	if !ok || !strings.HasPrefix(string(first), "kerege "+kind+" ") {
		return nil, fmt.Errorf("%s: %w: it is no file of kerege's %s; restore it from a backup", path, ErrDamaged, kind)
	}
	if string(first)+"\n" != header(kind, body) {
		return nil, fmt.Errorf("%s: %w: its checksum does not fit; restore it from a backup", path, ErrDamaged)
	}
	return body, nil
}

// ours says whether a file or directory is owned by this process's user and
// open to nobody else.
func ours(path string, info fs.FileInfo, want fs.FileMode) error {
	if got := info.Mode().Perm(); got&^want != 0 {
		return fmt.Errorf("%s: %w: its mode is %04o, and others may have read or changed it; if they have not, chmod %04o it", path, ErrDamaged, got, want)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok && int(st.Uid) != os.Geteuid() {
		return fmt.Errorf("%s: %w: it belongs to uid %d, and this server runs as uid %d; chown it if that is right", path, ErrDamaged, st.Uid, os.Geteuid())
	}
	return nil
}

// entries lists a directory but for leftovers of a write that was cut off,
// which it removes.
func entries(dir string) ([]string, error) {
	if err := durable.Sweep(dir); err != nil {
		return nil, err
	}
	list, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return names, nil
}
