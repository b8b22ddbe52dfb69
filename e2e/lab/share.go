package lab

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Share puts a program into the lab's folder, where every user of its hosts may
// run it: a checkout or a cache may be closed to them.
func (l *Lab) Share(program string) (path string, err error) {
	dir := filepath.Join(l.Dir, "bin")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", fmt.Errorf("sharing %s: %w", program, err)
	}
	path = filepath.Join(dir, filepath.Base(program))
	if os.Link(program, path) == nil {
		return path, os.Chmod(path, 0o755)
	}
	from, err := os.Open(program)
	if err != nil {
		return "", fmt.Errorf("sharing: %w", err)
	}
	defer from.Close()
	to, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return "", fmt.Errorf("sharing: %w", err)
	}
	if _, err := io.Copy(to, from); err != nil {
		to.Close()
		return "", fmt.Errorf("sharing %s: %w", program, err)
	}
	return path, to.Close()
}

// App is the shared program of that name.
func (h *Host) App() string { return filepath.Join(h.lab.Dir, "bin", "app") }
