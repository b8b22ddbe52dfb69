package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"sync"

	"github.com/kerege/kerege/api"
	"github.com/kerege/kerege/durable"
	"github.com/kerege/kerege/mesh"
)

// frost is whether proxies are told of changes. It is kept on disk: a server that
// is started again stays frozen.
type frost struct {
	path string
	wake chan struct{} // capacity 1: the planner should look again

	mu    sync.Mutex
	now   *api.Frozen // nil: it is not frozen
	early bool        // frozen since before this start: no proxy was told anything yet
	thaw  chan struct{}
}

// openFrost reads what an earlier start left. A file that cannot be read counts as
// frozen: that nothing moves can be undone with one word, and the reverse cannot.
func openFrost(path string) *frost {
	f := &frost{path: path, wake: make(chan struct{}, 1), thaw: make(chan struct{})}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		close(f.thaw)
		return f
	}
	f.now, f.early = &api.Frozen{}, true
	if err == nil {
		err = json.Unmarshal(text, f.now)
	}
	if err != nil {
		f.now = &api.Frozen{Reason: "reading " + path + ": " + err.Error()}
	}
	return f
}

// is says since when and why nothing is pushed; nil: it is.
func (f *frost) is() *api.Frozen {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

// cold is what is() says while a server that was started frozen stays so. It has
// told no proxy anything and must not: what it knows now is not what they have.
func (f *frost) cold() *api.Frozen {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.early {
		return nil
	}
	return f.now
}

// thawed is closed while it is not frozen.
func (f *frost) thawed() <-chan struct{} {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.thaw
}

// set freezes, or thaws with nil. It is on disk before it holds.
func (f *frost) set(to *api.Frozen) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var err error
	if to == nil {
		err = os.Remove(f.path)
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
	} else {
		var text []byte
		if text, err = json.Marshal(to); err == nil {
			err = durable.WriteFile(f.path, text)
		}
	}
	if err != nil {
		return fmt.Errorf("keeping whether the mesh is frozen: %w", err)
	}
	switch {
	case to != nil && f.now == nil:
		f.thaw = make(chan struct{})
	case to == nil && f.now != nil:
		close(f.thaw)
		f.early = false
	}
	f.now = to
	select {
	case f.wake <- struct{}{}:
	default:
	}
	return nil
}

// freeze is POST /v1/freeze. When it answers nothing more is pushed.
func (s *Server) freeze(r *http.Request) (any, error) {
	var req api.FreezeRequest
	if err := readAny(r, &req); err != nil {
		return nil, err
	}
	if err := checkReason(req.Reason); err != nil {
		return nil, err
	}
	if f := s.frost.is(); f != nil {
		return f, nil
	}
	gen, _ := s.files.Current()
	f := &api.Frozen{Since: s.now(), Reason: req.Reason, Generation: int(gen.Counter)}
	if err := s.frost.set(f); err != nil {
		return nil, err
	}
	s.planner.turning.Lock() // what was being taken has been
	defer s.planner.turning.Unlock()
	s.log.Named("audit").Warn("frozen: no proxy is told of a change before kerege thaw", "reason", f.Reason, "who", who(r))
	return f, nil
}

// unfreeze is POST /v1/thaw: proxies are brought in step with what is so now.
func (s *Server) unfreeze(r *http.Request) (any, error) {
	was, told := s.frost.is(), s.planner.told()
	if was == nil {
		return nil, fail(http.StatusConflict, "nothing is frozen", "")
	}
	if err := s.frost.set(nil); err != nil {
		return nil, err
	}
	s.log.Named("audit").Warn("thawed", "frozen_since", was.Since, "who", who(r))
	var out api.Applied
	if s.hub.Waiting() == "" {
		began := s.now()
		s.acknowledged(r.Context(), &out)
		out.Seconds = s.now().Sub(began).Seconds()
		out.Cut = cutBetween(told, s.hub.Snapshot())
	}
	gen, _ := s.files.Current()
	out.Generation, out.Previous, out.Of = int(gen.Counter), int(gen.Counter), int(s.files.RolledBack())
	return out, nil
}

// freezing is GET /v1/freeze: whether it is frozen, and what waits.
func (s *Server) freezing() api.Freeze {
	_, f := s.inForce(false)
	return api.Freeze{Frozen: f}
}

// inForce is what the proxies were told, and how it stands with a freeze; nil: there
// is none, and they are told what is so as it comes. While frozen it is what they
// have, unless applied asks for what a thaw brings. A server that was started frozen
// does not know what they have: it gives what a thaw brings, and says so.
func (s *Server) inForce(applied bool) (*mesh.Snapshot, *api.Frozen) {
	now, frozen := s.hub.Snapshot(), s.frost.is()
	if frozen == nil {
		return now, nil
	}
	f := *frozen
	told := s.planner.told()
	if told == nil {
		f.Unknown = true
		return now, &f
	}
	f.Waiting = waiting(told, now)
	if applied {
		return now, &f
	}
	return told, &f
}

// waiting counts what a thaw changes: services, with their instances, routes,
// intentions, the roots, and the mesh's own settings.
func waiting(told, now *mesh.Snapshot) int {
	things := map[mesh.Key]bool{}
	for _, k := range mesh.Diff(told, now) {
		switch k.Kind {
		case mesh.KindInstances:
			k.Kind = mesh.KindService
			things[k] = true
		case mesh.KindService, mesh.KindRoute, mesh.KindIntention, mesh.KindBundle, mesh.KindMesh:
			things[k] = true
		}
	}
	return len(things)
}
