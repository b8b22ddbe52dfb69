// Package durable replaces small files such that a crash at any moment leaves
// the old one or the new one, whole.
//
// Promises: what WriteFile has returned nil for is on disk, its name too; the
// file is of mode 0600; what a crash leaves half written is never under the
// file's name, and Sweep knows it.
package durable

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
)

const mark = ".new-" // in the name of what is being written

// WriteFile replaces a file. Its directory must be there.
func WriteFile(path string, text []byte) error { return WriteFileAt(path, text, nil) }

// WriteFileAt is WriteFile with a call of at before every change of the disk,
// which says what comes next: a test ends the process there.
func WriteFileAt(path string, text []byte, at func(what string)) (err error) {
	if at == nil {
		at = func(string) {}
	}
	dir, name := filepath.Dir(path), filepath.Base(path)
	at("create " + name)
	f, err := os.CreateTemp(dir, "."+name+mark+"*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	at("write " + name)
	if _, err = f.Write(text); err != nil {
		return err
	}
	at("sync " + name)
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	at("rename " + name)
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	at("sync directory of " + name)
	return SyncDir(dir)
}

// SyncDir brings the names in a directory to disk.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// TempDir makes a directory of mode 0700 that is to be renamed to path once all
// in it is written.
func TempDir(path string) (string, error) {
	return os.MkdirTemp(filepath.Dir(path), "."+filepath.Base(path)+mark+"*")
}

// Leftover says whether a directory's entry is what a crash left half written.
func Leftover(name string) bool { return strings.HasPrefix(name, ".") && strings.Contains(name, mark) }

// Sweep removes what crashes left half written in a directory. Nobody may be
// writing there.
func Sweep(dir string) error {
	list, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range list {
		if Leftover(e.Name()) {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}
