package registry

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/kerege/kerege/mesh"
)

const forever = 24 * time.Hour

// writer is the hub's one goroutine: it alone owns the parts.
type writer struct {
	h     *Hub
	parts map[partKey]mesh.Part // as the sources said, held back or not
	old   map[partKey]bool      // of them, those from an earlier life, not repeated yet
	cur   *mesh.Snapshot
	keys  map[mesh.Key]bool // changed in cur since it was last published
	wrote time.Time         // when cur last changed

	known    map[string]bool // sources the last-good file speaks for
	open     bool            // the gate
	guard    guard
	damper   damper
	vips     *vips
	retained *retained
	saver    *saver
}

// newWriter reads the durable state. What the last-good file holds is in the
// snapshot from the first moment, but is not published before the gate opens.
func newWriter(h *Hub) (*writer, error) {
	w := &writer{
		h: h, parts: map[partKey]mesh.Part{}, old: map[partKey]bool{}, cur: &mesh.Snapshot{},
		keys: map[mesh.Key]bool{}, known: map[string]bool{},
		guard: newGuard(h.opt), damper: damper{scopes: map[partKey]*pace{}},
	}
	good, err := h.loadGood()
	if err != nil {
		return nil, err
	}
	w.vips, err = h.loadVIPs()
	if err != nil {
		return nil, err
	}
	w.retained = newRetained(h.opt, good.Retained)
	w.saver = newSaver(h)
	first := w.vips.parts()
	first = append(first, w.retained.all(h.opt.Now())...)
	for _, name := range good.Sources {
		w.known[name] = true
	}
	for _, p := range good.Parts {
		if w.known[p.Source] && h.runs(p.Source) {
			w.parts[keyOf(p)], w.old[keyOf(p)] = p, true
			w.guard.seen(keyOf(p), p)
			first = append(first, p)
		}
	}
	w.with(append(first, h.members.all()...))
	return w, nil
}

// runs says whether a part's source belongs to a source that is watched now.
func (h *Hub) runs(source string) bool {
	return slices.ContainsFunc(h.runners, func(r *runner) bool { return r.src.Name() == source })
}

// loop applies what comes until ctx ends.
func (w *writer) loop(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.h.poke:
		case <-timer.C:
		}
		timer.Reset(w.step(w.h.opt.Now()))
	}
}

// step does what is due and says how long nothing else will be.
func (w *writer) step(now time.Time) time.Duration {
	wait := forever
	until := func(t time.Time) { wait = min(wait, max(t.Sub(now), 0)) }
	if due, any := w.due(now); any {
		if due.After(now) {
			until(due)
		} else {
			w.apply(now, w.take())
		}
	}
	w.confirm(now)
	for _, next := range []func(time.Time) ([]mesh.Part, time.Time){w.damper.expire, w.guard.expire, w.retained.expire} {
		parts, again := next(now)
		w.release(now, parts)
		if !again.IsZero() {
			until(again)
		}
	}
	if next := w.h.members.expire(now); !next.IsZero() {
		until(next)
	}
	if next := w.gate(now); !next.IsZero() {
		until(next)
	}
	if next := w.saver.offer(now, w); !next.IsZero() {
		until(next)
	}
	w.show(now)
	return wait
}

// due says when the inbox is to be applied, if there is anything in it.
func (w *writer) due(now time.Time) (time.Time, bool) {
	w.h.mu.Lock()
	defer w.h.mu.Unlock()
	if len(w.h.inbox) == 0 {
		return time.Time{}, false
	}
	if !w.h.opt.NoLeadingEdge && w.h.first.Sub(w.wrote) >= w.h.opt.Quiet {
		return now, true
	}
	quiet, latest := w.h.last.Add(w.h.opt.Quiet), w.h.first.Add(w.h.opt.Max)
	if latest.Before(quiet) {
		return latest, true
	}
	return quiet, true
}

// batch is what is applied together.
type batch struct {
	parts []mesh.Part
	upTo  uint64
}

func (w *writer) take() batch {
	w.h.mu.Lock()
	defer w.h.mu.Unlock()
	b := batch{upTo: w.h.queued}
	for _, p := range w.h.inbox {
		b.parts = append(b.parts, p)
	}
	clear(w.h.inbox)
	slices.SortFunc(b.parts, func(x, y mesh.Part) int {
		return cmp.Or(cmp.Compare(x.Source, y.Source), cmp.Compare(x.Scope, y.Scope))
	})
	return b
}

// apply brings a batch into the snapshot, less what guard and damper hold back.
func (w *writer) apply(now time.Time, b batch) {
	var spoken []string
	parts := b.parts
	for _, p := range b.parts {
		delete(w.old, keyOf(p))
		if p.Scope == "" && w.h.runs(p.Source) {
			spoken = append(spoken, p.Source)
		}
	}
	for _, name := range spoken {
		for k := range w.old {
			if k.source == name { // known to an earlier life, and not repeated: gone
				parts = append(parts, mesh.Part{Source: k.source, Scope: k.scope})
				delete(w.old, k)
			}
		}
	}
	var through []mesh.Part
	for _, p := range w.guard.admit(now, parts, w.parts, w.trouble) {
		if w.damper.pass(now, p, w.parts[keyOf(p)]) {
			through = append(through, p)
		}
	}
	for _, p := range parts {
		w.keep(p)
	}
	w.with(through)
	w.wrote = now
	w.speak(spoken)
	w.publish()
	w.h.mu.Lock() // only now: who was waiting for it reads the snapshot next
	w.h.applied = b.upTo
	close(w.h.settled)
	w.h.settled = make(chan struct{})
	w.h.mu.Unlock()
}

func (w *writer) keep(p mesh.Part) {
	w.parts[keyOf(p)] = p
	if empty(p) {
		delete(w.parts, keyOf(p))
	}
	w.saver.dirty = true
}

func empty(p mesh.Part) bool {
	return p.Mesh == nil && len(p.Defaults)+len(p.Services)+len(p.Routes)+len(p.Intentions)+len(p.Instances)+
		len(p.Members)+len(p.VIPs)+len(p.Retained)+len(p.Bundle) == 0
}

// release applies parts whose time has come.
func (w *writer) release(now time.Time, parts []mesh.Part) {
	if len(parts) == 0 {
		return
	}
	w.damper.forget(parts)
	w.with(parts)
	w.wrote = now
	w.publish()
}

// confirm lets go of the holds that an operator confirmed.
func (w *writer) confirm(now time.Time) {
	w.h.mu.Lock()
	names := w.h.confirms
	w.h.confirms = map[string]bool{}
	w.h.mu.Unlock()
	if len(names) > 0 {
		w.release(now, w.guard.confirm(names))
	}
}

// with makes the next snapshot: the parts, then the virtual addresses of new
// services and the pairs that lost their right.
func (w *writer) with(parts []mesh.Part) {
	if len(parts) == 0 {
		return
	}
	before := w.cur
	keys := w.advance(parts)
	var more []mesh.Part
	if slices.ContainsFunc(keys, func(k mesh.Key) bool { return k.Kind == mesh.KindServices }) {
		more = w.vips.assign(w.h.opt.Now(), w.cur.Services())
	}
	more = append(more, w.retained.lost(w.h.opt.Now(), before, w.cur, keys)...)
	if len(more) > 0 {
		w.advance(more)
	}
}

func (w *writer) advance(parts []mesh.Part) []mesh.Key {
	next, keys := w.cur.With(parts...)
	w.cur = next
	for _, k := range keys {
		w.keys[k] = true
	}
	return keys
}

func (w *writer) publish() {
	if !w.open || len(w.keys) == 0 {
		return
	}
	keys := make([]mesh.Key, 0, len(w.keys))
	for k := range w.keys {
		keys = append(keys, k)
	}
	clear(w.keys)
	w.h.publish(w.cur, keys)
}

func (w *writer) speak(names []string) {
	w.h.mu.Lock()
	defer w.h.mu.Unlock()
	for _, r := range w.h.runners {
		if slices.Contains(names, r.src.Name()) {
			r.spoken = true
		}
	}
}

// gate opens when every source has spoken, or is silent for longer than Grace
// and the last-good file speaks for it. It gives the time to look again.
func (w *writer) gate(now time.Time) time.Time {
	if w.open {
		return time.Time{}
	}
	w.h.mu.Lock()
	late := w.h.started.Add(w.h.opt.Grace)
	silent, without := []string{}, false
	for _, r := range w.h.runners {
		if !r.spoken {
			silent = append(silent, r.src.Name())
			without = without || !w.known[r.src.Name()]
		}
	}
	w.h.mu.Unlock()
	switch {
	case len(silent) == 0:
	case now.Before(late):
		return late
	case without:
		return time.Time{} // a part of scope "" will wake us
	default:
		w.h.log.Warn("serving from the last-good file", "silent", silent)
	}
	w.open = true
	w.publish()
	close(w.h.ready)
	return time.Time{}
}

// trouble says whether a source was not ok in the last minute.
func (w *writer) trouble(now time.Time, source string) bool {
	w.h.mu.Lock()
	defer w.h.mu.Unlock()
	for _, r := range w.h.runners {
		if r.src.Name() == source {
			rep := w.h.report(r)
			return !r.spoken || rep.State != mesh.SourceOK || !rep.Trouble.IsZero() && now.Sub(rep.Trouble) < time.Minute
		}
	}
	return false
}

// show copies what others may read.
func (w *writer) show(now time.Time) {
	holds, flapping := w.guard.list(), w.damper.flapping(now)
	w.h.mu.Lock()
	w.h.holds, w.h.flapping = holds, flapping
	w.h.mu.Unlock()
}

// close writes the last good answer once more.
func (w *writer) close() error { return w.saver.close(w) }
