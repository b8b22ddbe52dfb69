package file

import (
	"context"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"
)

const (
	debounce = 200 * time.Millisecond // an editor's writes, renames and links belong together
	poll     = 30 * time.Second       // for what notifications miss: another host's writes, swapped mounts
)

// follow applies what changes on disk until ctx ends.
func (s *Source) follow(ctx context.Context) {
	var events chan fsnotify.Event
	var faults chan error
	w, err := fsnotify.NewWatcher()
	if err != nil {
		s.log.Warn("no notifications of changed files; they are looked at every 30 s", "error", err)
	} else {
		defer w.Close()
		events, faults = w.Events, w.Errors
		s.watchPlaces(w)
	}
	tick := time.NewTicker(poll)
	defer tick.Stop()
	quiet := time.NewTimer(debounce)
	defer quiet.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-events:
			quiet.Reset(debounce)
		case err := <-faults:
			s.log.Warn("notifications of changed files were lost; all are read again", "error", err)
			quiet.Reset(debounce)
		case <-tick.C:
			quiet.Reset(0)
		case <-quiet.C:
			if w != nil {
				s.watchPlaces(w) // a swapped link points elsewhere now
			}
			s.look()
		}
	}
}

// watchPlaces watches each directory, each file's directory, and where links lead.
func (s *Source) watchPlaces(w *fsnotify.Watcher) {
	add := func(path string) {
		if err := w.Add(path); err != nil {
			s.log.Debug("watching", "path", path, "error", err)
		}
	}
	for _, p := range s.opt.Paths {
		add(filepath.Dir(p))
		if info, err := os.Stat(p); err == nil && info.IsDir() {
			add(p)
		}
		if real, err := filepath.EvalSymlinks(p); err == nil && real != p {
			add(filepath.Dir(real))
		}
	}
}

// look applies the files if they differ. That all are gone is not believed
// without a word from the operator.
func (s *Source) look() {
	differs := s.Differs()
	s.mu.Lock()
	refused := s.refused
	s.mu.Unlock()
	if len(differs) == 0 && refused == nil {
		return
	}
	if _, _, err := s.load(true); err != nil {
		s.log.Error("the mesh's files are not applied", "error", err)
	}
}
