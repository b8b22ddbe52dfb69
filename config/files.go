package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// readFiles reads files, and the files of directories, whole. A directory's
// are those that end in .hcl or .json, are not hidden, and pass keep. What
// cannot be read is an error: unreadable is not deleted.
func readFiles(s *sink, paths []string, keep func(base string) bool) map[string][]byte {
	var names []string
	for _, p := range paths {
		names = append(names, s.expand(p, keep)...)
	}
	slices.Sort(names)
	names = slices.Compact(names)
	if len(names) > MaxFiles {
		s.errorf(codeLimit, place{rng: startOf(names[0])}, "", "there are %d files, more than %d", len(names), MaxFiles)
		return nil
	}
	total := 0
	out := make(map[string][]byte, len(names))
	for _, name := range names {
		src, ok := s.read(name)
		if !ok {
			continue
		}
		if total += len(src); total > MaxTotalBytes {
			s.errorf(codeLimit, place{rng: startOf(name)}, "", "the files have more than %d bytes together", MaxTotalBytes)
			return nil
		}
		out[name] = src
	}
	return out
}

func (s *sink) expand(path string, keep func(string) bool) []string {
	info, err := os.Stat(path)
	if err != nil {
		s.unreadable(path, err)
		return nil
	}
	if !info.IsDir() {
		return []string{path}
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		s.unreadable(path, err)
		return nil
	}
	var out []string
	for _, e := range entries {
		base := e.Name()
		if e.IsDir() || !isConfigName(base) || keep != nil && !keep(base) {
			continue
		}
		full := filepath.Join(path, base)
		if info, err := os.Stat(full); err == nil && info.IsDir() {
			continue
		}
		out = append(out, full)
	}
	return out
}

// isConfigName passes over hidden files and what editors leave behind.
func isConfigName(base string) bool {
	return (strings.HasSuffix(base, ".hcl") || strings.HasSuffix(base, ".json")) && !strings.HasPrefix(base, ".") && !strings.HasPrefix(base, "#")
}

// read reads a file of bounded size. The size is asked of the open file first,
// so that a huge one costs nothing, and held while reading, so that a growing
// one does not either.
func (s *sink) read(name string) ([]byte, bool) {
	f, err := os.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0) // opening a FIFO waits for ever
	if err != nil {
		s.unreadable(name, err)
		return nil, false
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		s.unreadable(name, err)
		return nil, false
	}
	if !info.Mode().IsRegular() {
		s.errorf(codeUnread, place{rng: startOf(name)}, "Name a file or a directory.", "it is no ordinary file")
		return nil, false
	}
	if n := info.Size(); n > MaxFileBytes {
		s.errorf(codeLimit, place{rng: startOf(name)}, splitFix, "the file has %d bytes, more than %d", n, MaxFileBytes)
		return nil, false
	}
	src, err := io.ReadAll(io.LimitReader(f, MaxFileBytes+1))
	if err != nil {
		s.unreadable(name, err)
		return nil, false
	}
	return src, true // one byte too many is refused by the scan
}

const splitFix = "Split it: all files of a directory are one."

func (s *sink) unreadable(name string, err error) {
	var pe *fs.PathError
	reason := err.Error()
	if errors.As(err, &pe) {
		reason = pe.Err.Error()
	}
	fix := ""
	switch {
	case errors.Is(err, fs.ErrNotExist):
		fix = "Check the path."
	case errors.Is(err, fs.ErrPermission):
		fix = fmt.Sprintf("Let this user (uid %d) read it.", os.Getuid())
	}
	s.errorf(codeUnread, place{rng: startOf(name)}, fix, "cannot be read: %s", reason)
}
