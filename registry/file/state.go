package file

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/kerege/kerege/config"
	"github.com/kerege/kerege/durable"
)

// kept is the state file: the accepted texts, so that a restart with broken
// files goes on with what was in force. Hash is of Files.
type kept struct {
	Version int
	Generation
	Since time.Time
	pin
	Files map[string][]byte
}

const stateVersion = 1

// keep writes the state last: it alone says what the next start takes, so what
// fails before has changed nothing.
func (s *Source) keep(gen Generation, applied time.Time, m *config.Mesh, p pin) error {
	if s.opt.State == "" {
		return nil
	}
	text, err := json.Marshal(kept{stateVersion, gen, applied, p, m.Sources})
	fresh := gen.Counter > s.newest()
	if err == nil && fresh {
		err = s.remember(gen.Counter, text)
	}
	if err == nil {
		err = s.replace(s.opt.State, text)
		if now, readErr := os.ReadFile(s.opt.State); err != nil && readErr == nil && bytes.Equal(now, text) {
			s.log.Warn("a generation is in its place, and whether it is on disk is not known", "generation", gen.Counter, "error", err)
			err = nil
		}
		if err != nil && fresh {
			if gone := os.Remove(s.pastFile(gen.Counter)); gone != nil {
				s.log.Warn("a generation that is not in force is among those that are kept", "generation", gen.Counter, "error", gone)
			}
		}
	}
	if err != nil {
		return fmt.Errorf("keeping generation %d: %w", gen.Counter, err)
	}
	return nil
}

// restore takes the kept generation, once. What cannot be trusted is put aside;
// its number is not needed, for the files on disk say what is to be.
func (s *Source) restore() {
	if s.opt.State == "" || s.restored {
		return
	}
	s.restored = true
	text, err := os.ReadFile(s.opt.State)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	var k kept
	if err == nil {
		err = json.Unmarshal(text, &k)
	}
	if err == nil && k.Version != stateVersion {
		err = fmt.Errorf("it is of version %d, this server reads version %d", k.Version, stateVersion)
	}
	var m *config.Mesh
	if err == nil {
		var diags config.Diagnostics
		m, diags = config.LoadBytes(k.Files)
		switch {
		case diags.HasErrors():
			err = fmt.Errorf("this version of kerege refuses it: %w", diags)
		case m.Hash != k.Hash:
			err = errors.New("it is damaged: its hash does not fit")
		}
	}
	if err != nil {
		aside := fmt.Sprintf("%s.refused-%d", s.opt.State, s.opt.Now().Unix())
		s.log.Error("the kept generation is not used", "error", err, "kept_as", aside, "rename", os.Rename(s.opt.State, aside))
		return
	}
	if _, err := os.Stat(s.pastFile(k.Counter)); errors.Is(err, fs.ErrNotExist) { // kept by a version without a history
		if err := s.remember(k.Counter, text); err != nil {
			s.log.Warn("the generation in force cannot be gone back to", "generation", k.Counter, "error", err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.current, s.gen, s.applied, s.pin = m, k.Generation, k.Since, k.pin
}

// replace writes a file whole, in a directory that it makes.
func replace(path string, text []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	return durable.WriteFile(path, text)
}

// Differs lists, sorted, the files that on disk are not as in the generation in
// force: changed, new, gone or unreadable.
func (s *Source) Differs() []string {
	s.mu.Lock()
	var in map[string][]byte
	if s.current != nil {
		in = s.current.Sources
	}
	s.mu.Unlock()
	names := map[string]bool{}
	for name := range in {
		names[name] = true
	}
	for _, path := range s.opt.Paths {
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			entries, _ := os.ReadDir(path)
			for _, e := range entries {
				if b := e.Name(); !e.IsDir() && (strings.HasSuffix(b, ".hcl") || strings.HasSuffix(b, ".json")) && !strings.HasPrefix(b, ".") && !strings.HasPrefix(b, "#") {
					names[filepath.Join(path, b)] = true
				}
			}
			continue
		}
		names[path] = true
	}
	maps.DeleteFunc(names, func(name string, _ bool) bool {
		was, had := in[name]
		// Only what may be equal is read: a FIFO would wait, a huge file cost.
		info, err := os.Stat(name)
		if !had || err != nil || !info.Mode().IsRegular() || info.Size() != int64(len(was)) {
			return false
		}
		text, err := os.ReadFile(name)
		return err == nil && bytes.Equal(text, was)
	})
	return slices.Sorted(maps.Keys(names))
}
