package relay

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/kerege/kerege/xds/delta"
)

// Status is one proxy as the operator sees it.
type Status struct {
	ID        string
	Source    Source
	Connected bool      // a server answers and knows this proxy
	Since     time.Time // connected, or not
	Fresh     time.Time // when the resources were last known to be the servers'; zero: never. Connected: now
	Error     string    // why there is no server; "": there is
	Envoys    int       // connected
	Envoy     string    // version of the last one
	Ready     bool      // an Envoy has accepted its listeners and what they name
	Disk      string    // why nothing is kept; "": it is
	Types     []TypeStatus
}

// TypeStatus is one type of resource.
type TypeStatus struct {
	Type      string      // URL
	State     delta.State // synced: Envoy has what the server said; stale: not yet, or no server; nacked
	Resources int
	Refused   []Refusal // sorted by name
}

// Refusal is a resource that Envoy does not take.
type Refusal struct {
	Name, Version string
	Held          string // the version in its place; "": none
	Words         string // Envoy's
}

// Status is a copy.
func (p *Proxy) Status() Status {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := Status{ID: p.cfg.ID, Source: p.source, Connected: p.live(), Since: p.upSince, Fresh: p.fresh, Error: p.upError,
		Envoys: len(p.streams), Envoy: p.envoy, Disk: p.saveErr}
	if s.Connected {
		s.Fresh, s.Error = time.Now(), ""
	} else if s.Error == "" {
		s.Error = "no server has answered yet"
	}
	s.Ready, _ = p.ready()
	for _, typ := range types {
		ts := TypeStatus{Type: typ, State: delta.Synced}
		if !s.Connected || len(p.pending[typ]) > 0 {
			ts.State = delta.Stale
		}
		for at, it := range p.view.items {
			if at.Type != typ {
				continue
			}
			ts.Resources++
			if it.bad != "" {
				r := Refusal{Name: at.Name, Version: it.bad, Words: it.words}
				if it.shown != nil {
					r.Held = it.shown.Version
				}
				ts.State, ts.Refused = delta.Nacked, append(ts.Refused, r)
			}
		}
		slices.SortFunc(ts.Refused, func(a, b Refusal) int {
			if a.Name < b.Name {
				return -1
			}
			return 1
		})
		s.Types = append(s.Types, ts)
	}
	return s
}

// Ready says whether an Envoy has accepted listeners, and all that they name; if
// not, why in words.
func (p *Proxy) Ready() (ok bool, why string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ready()
}

func (p *Proxy) ready() (bool, string) {
	if !p.begun {
		return false, "no resources yet: neither a server nor the disk has any"
	}
	if len(p.streams) == 0 {
		return false, "Envoy is not connected"
	}
	why := "Envoy has not asked for listeners yet"
	for st := range p.streams {
		if why = st.warm(); why == "" {
			return true, ""
		}
	}
	return false, why
}

// warm says what a stream's listeners lack; "": nothing.
func (st *stream) warm() string {
	n := 0
	for _, g := range st.proxy.view.groups {
		for _, r := range g.Resources {
			if r.Type != delta.TypeListener {
				continue
			}
			n++
			s := st.session.Standing(r.Type, r.Name)
			if s.Version == "" {
				return fmt.Sprintf("Envoy has not accepted listener %s yet", r.Name)
			}
			for _, at := range r.Refs() {
				if at.Type == delta.TypeEndpoints || at.Type == delta.TypeCluster {
					continue
				}
				it := st.proxy.view.items[at]
				if it == nil || st.session.Standing(at.Type, at.Name).Version != "" {
					continue
				}
				if it.bad != "" {
					return fmt.Sprintf("Envoy refused %s %s: %s", short(at.Type), at.Name, it.words)
				}
				return fmt.Sprintf("Envoy has not accepted %s %s yet", short(at.Type), at.Name)
			}
		}
	}
	if n == 0 {
		return "there are no listeners for this proxy"
	}
	return ""
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
