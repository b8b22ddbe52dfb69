package capture

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/kerege/kerege/durable"
)

// state is capture.json: written before the kernel is touched, so that whoever
// comes after a crash knows what to bring about, and what to undo.
type state struct {
	Version  int               `json:"version"`
	Config   *Config           `json:"config,omitempty"`   // nil: nothing is captured
	Previous *Config           `json:"previous,omitempty"` // what an undo goes back to
	Deadline time.Time         `json:"deadline,omitzero"`  // when it is undone; zero: confirmed
	Backends map[string]string `json:"backends,omitempty"` // namespace → nft | legacy
	Cgroups  map[string]uint64 `json:"cgroups,omitempty"`  // slice → inode at the time its rules were made
	Agent    process           `json:"agent,omitzero"`     // the agent that looks after it
}

const stateVersion = 1

type stateFile struct{ dir string }

func (f stateFile) path() string { return filepath.Join(f.dir, "capture.json") }

// load returns fs.ErrNotExist when nothing was ever recorded.
func (f stateFile) load() (state, error) {
	text, err := os.ReadFile(f.path())
	if err != nil {
		return state{}, fmt.Errorf("reading capture's record: %w", err)
	}
	var s state
	if err := json.Unmarshal(text, &s); err != nil {
		return state{}, fmt.Errorf("reading %s: %w (kerege capture remove takes the host's rules out without it)", f.path(), err)
	}
	if s.Version != stateVersion {
		return state{}, fmt.Errorf("reading %s: version %d is not known to this kerege", f.path(), s.Version)
	}
	return s, nil
}

func (f stateFile) save(s state) error {
	s.Version = stateVersion
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("recording the capture: %w", err)
	}
	if err := writeWhole(f.path(), append(text, '\n')); err != nil {
		return fmt.Errorf("recording the capture: %w", err)
	}
	return nil
}

// writeWhole replaces a file such that a crash leaves the old or the new one.
func writeWhole(path string, text []byte) error {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	return durable.WriteFile(path, text)
}

// lock keeps other processes that would change the capture out until unlock. A
// folder that cannot be written is no reason to wait: there is nothing to share.
func (f stateFile) lock() (unlock func(), err error) {
	file, err := os.OpenFile(filepath.Join(f.dir, "capture.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EROFS) {
		return func() {}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("locking the capture: %w", err)
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX); err != nil {
		file.Close()
		return nil, fmt.Errorf("locking the capture: %w", err)
	}
	return func() { file.Close() }, nil
}
