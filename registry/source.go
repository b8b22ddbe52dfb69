package registry

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/kerege/kerege/mesh"
)

// Source reports what one registry knows. Watch sends a Part for each scope and
// again whenever it changes, and once it has sent all it knows, a Part of scope
// "": only then does the source count as having spoken, and what an earlier life
// of the server remembered of it and it did not repeat is gone. It returns when
// ctx ends, having waited for its own goroutines; an error before that makes the
// hub start it again after a while.
type Source interface {
	Name() string
	Watch(ctx context.Context, out chan<- mesh.Part) error
}

// Reporter is a Source that knows more of its own state than whether Watch runs.
type Reporter interface {
	Report() mesh.SourceReport
}

// SourceStatus is the state of one source for people.
type SourceStatus struct {
	Name              string
	State             mesh.SourceState
	Age               time.Duration // since its last whole answer; negative: none yet
	Spoken            bool          // it has said all it knows since this server started
	Err               string        // one sentence; "" when ok
	Services          int
	Watches           int
	RequestsPerSecond float64
	Healed            int
	Flapping          []string // services whose health changes too often to follow
}

const (
	firstRestart = time.Second
	lastRestart  = 30 * time.Second
)

// runner keeps one source watched.
type runner struct {
	src    Source
	spoken bool      // under Hub.mu, as all below
	since  time.Time // of its last Part
	fault  time.Time
	err    string
	scopes map[string]bool
	life   *life // the latest; nil: none yet
}

// life is one Watch of a source. Who gets something through pass knows that every
// part the source had got rid of before is in the inbox.
type life struct{ pass, over chan struct{} }

// run starts the source again whenever it fails, until ctx ends.
func (h *Hub) run(ctx context.Context, r *runner) {
	pause := firstRestart
	for ctx.Err() == nil {
		began := h.opt.Now()
		err := h.watch(ctx, r)
		if ctx.Err() != nil {
			return
		}
		if h.opt.Now().Sub(began) > time.Minute {
			pause = firstRestart
		}
		sentence := "it stopped watching"
		if err != nil {
			sentence = err.Error()
		}
		h.mu.Lock()
		r.err, r.fault = sentence, h.opt.Now()
		h.mu.Unlock()
		wait := pause/2 + rand.N(pause)
		h.log.Warn("source failed; what it said last goes on counting", "source", r.src.Name(), "error", sentence, "retry_in", wait)
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
		pause = min(2*pause, lastRestart)
	}
}

// watch is one life of a source. It takes its parts until Watch has returned.
func (h *Hub) watch(ctx context.Context, r *runner) error {
	out, done := make(chan mesh.Part), make(chan error, 1)
	l := &life{pass: make(chan struct{}), over: make(chan struct{})}
	defer close(l.over)
	h.mu.Lock()
	r.life = l
	h.mu.Unlock()
	go func() { done <- r.src.Watch(ctx, out) }()
	for {
		select {
		case p := <-out:
			p.Source = sourceOf(p, r.src)
			h.heard(r, p)
		case <-l.pass:
		case err := <-done:
			return err
		}
	}
}

// sourceOf is the part's own word for its source, else the source's name.
func sourceOf(p mesh.Part, src Source) string {
	if p.Source != "" {
		return p.Source
	}
	return src.Name()
}

func (h *Hub) heard(r *runner, p mesh.Part) {
	now := h.opt.Now()
	h.mu.Lock()
	r.since, r.err = now, ""
	if len(p.Instances) > 0 || p.Scope == "" {
		r.scopes[p.Scope] = true
	} else {
		delete(r.scopes, p.Scope)
	}
	h.mu.Unlock()
	h.enqueue(now, p)
}

// report is the source's own report, else what the hub saw of it.
func (h *Hub) report(r *runner) mesh.SourceReport {
	if rep, ok := r.src.(Reporter); ok {
		got := rep.Report()
		if r.err != "" && got.Err == "" {
			got.State, got.Err = mesh.SourceError, r.err
		}
		return got
	}
	got := mesh.SourceReport{State: mesh.SourceOK, Since: r.since, Trouble: r.fault, Err: r.err, Services: len(r.scopes)}
	switch {
	case r.err != "":
		got.State = mesh.SourceError
	case !r.spoken:
		got.State, got.Err = mesh.SourceStale, "it has not spoken yet"
	}
	return got
}

// Status lists the sources in the order they were given to Run.
func (h *Hub) Status() []SourceStatus {
	now := h.opt.Now()
	h.mu.Lock()
	defer h.mu.Unlock()
	var list []SourceStatus
	for _, r := range h.runners {
		rep := h.report(r)
		s := SourceStatus{
			Name: r.src.Name(), State: rep.State, Age: -1, Spoken: r.spoken, Err: rep.Err, Services: rep.Services,
			Watches: rep.Watches, RequestsPerSecond: rep.RequestsPerSecond, Healed: rep.Healed, Flapping: h.flapping[r.src.Name()],
		}
		if !rep.Since.IsZero() {
			s.Age = now.Sub(rep.Since)
		}
		list = append(list, s)
	}
	return list
}
