package registry

import (
	"errors"
	"slices"
	"time"

	"github.com/kerege/kerege/mesh"
)

const saveEvery = 5 * time.Second

// good is the last good answer of the sources, as it is on disk.
type good struct {
	Sources  []string // those that had said all they know
	Parts    []mesh.Part
	Retained []kept
}

func (h *Hub) loadGood() (good, error) {
	var g good
	err := h.store("sources", 1).read(&g)
	switch {
	case errors.Is(err, errNoFile):
	case err != nil:
		h.log.Error("the last-good file is not used; the server waits for its sources", "error", err)
		return good{}, nil
	}
	return g, nil
}

// saver writes the last good answer at most every saveEvery, beside the writer,
// so that a slow disk delays no endpoint. One file is being written at a time.
type saver struct {
	h     *Hub
	store store
	dirty bool
	at    time.Time
	done  chan error // of the write under way; nil: none
}

func newSaver(h *Hub) *saver { return &saver{h: h, store: h.store("sources", 1)} }

// offer starts a write when one is due and says when to come again.
func (s *saver) offer(now time.Time, w *writer) time.Time {
	if s.store.path == "" {
		return time.Time{}
	}
	if s.done != nil {
		select {
		case err := <-s.done:
			s.ended(err)
		default:
			return now.Add(saveEvery)
		}
	}
	if !s.dirty {
		return time.Time{}
	}
	if next := s.at.Add(saveEvery); now.Before(next) {
		return next
	}
	g := w.good()
	s.dirty, s.at, s.done = false, now, make(chan error, 1)
	go func() { s.done <- s.store.write(g) }()
	return now.Add(saveEvery)
}

func (s *saver) ended(err error) {
	s.done = nil
	if err != nil {
		s.dirty = true
		s.h.log.Error("the last good answer is not on disk", "error", err)
	}
}

// close waits for the write under way and writes what came after it.
func (s *saver) close(w *writer) error {
	if s.done != nil {
		s.ended(<-s.done)
	}
	if !s.dirty {
		return nil
	}
	return s.store.write(w.good())
}

// good collects what registries said. Configuration is not in it: its own
// source keeps its files.
func (w *writer) good() good {
	g := good{Retained: w.retained.list()}
	config := map[string]bool{}
	for k, p := range w.parts {
		switch {
		case p.Mesh != nil || len(p.Services)+len(p.Defaults)+len(p.Routes)+len(p.Intentions) > 0:
			config[k.source] = true
		case len(p.Instances) > 0 && w.h.runs(k.source):
			g.Parts = append(g.Parts, p)
		}
	}
	w.h.mu.Lock()
	for _, r := range w.h.runners {
		name := r.src.Name()
		if _, own := r.src.(KeepsItself); !own && !config[name] && (r.spoken || w.known[name]) {
			g.Sources = append(g.Sources, name)
		}
	}
	w.h.mu.Unlock()
	g.Parts = slices.DeleteFunc(g.Parts, func(p mesh.Part) bool { return !slices.Contains(g.Sources, p.Source) })
	sortParts(g.Parts)
	return g
}

// KeepsItself is a Source that remembers by its own means what it last said.
type KeepsItself interface{ KeepsItself() }
