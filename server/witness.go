package server

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/kerege/kerege/durable"
	"github.com/kerege/kerege/registry/nomad"
)

const (
	wordCounts = 24 * time.Hour  // a yes that Nomad does not repeat, likewise its keys
	wordKept   = 5 * time.Second // yeses younger than this may be lost with the process
)

// lastWord is a witness that goes on saying what Nomad said last, for 24 h, while
// Nomad cannot be asked. A tie that Nomad never bore out is unknown meanwhile, and
// one that it denies is forgotten.
type lastWord struct {
	ask  witness
	file string // keeps the yeses over a restart
	log  hclog.Logger
	now  func() time.Time

	mu    sync.Mutex
	yes   map[nomad.Tie]time.Time // when Nomad said it last
	dirty bool
}

// wordOf is a yes on disk.
type wordOf struct {
	nomad.Tie
	Said time.Time
}

func newLastWord(ask witness, file string, log hclog.Logger, now func() time.Time) *lastWord {
	w := &lastWord{ask: ask, file: file, log: log, now: now, yes: map[nomad.Tie]time.Time{}}
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return w
	}
	var all []wordOf
	if err == nil {
		err = json.Unmarshal(text, &all)
	}
	if err != nil {
		log.Warn("what nomad said of its allocations is not believed from disk; it is asked anew", "file", file, "error", err)
		return w
	}
	for _, x := range all {
		w.yes[x.Tie] = x.Said
	}
	return w
}

// Registers is Nomad's answer, or where Nomad is away its last one.
func (w *lastWord) Registers(ctx context.Context, t nomad.Tie) error {
	err := w.ask.Registers(ctx, t)
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.now()
	said, known := w.yes[t]
	switch {
	case err == nil:
		w.yes[t], w.dirty = now, true
		return nil
	case !errors.Is(err, nomad.ErrAway):
		delete(w.yes, t)
		w.dirty = w.dirty || known
		return err
	case !known:
		return fmt.Errorf("%w; it has said nothing of this allocation before, so its first certificate waits for it", err)
	case !counts(now, said):
		return fmt.Errorf("%w; what it said at %s is too old to count", err, said.UTC().Format(time.RFC3339))
	}
	w.log.Warn("nomad cannot be asked; its last word counts for 24 h", "allocation", t.Allocation, "service", t.Service, "said", said.UTC().Format(time.RFC3339), "error", err)
	return nil
}

func counts(now, said time.Time) bool { return !said.After(now) && now.Sub(said) <= wordCounts }

// run keeps the yeses on disk until ctx ends.
func (w *lastWord) run(ctx context.Context) error {
	tick := time.NewTicker(wordKept)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			w.save()
			return nil
		case <-tick.C:
			w.save()
		}
	}
}

// save writes what counts, where that changed; a disk that does not take it is said, and no more.
func (w *lastWord) save() {
	w.mu.Lock()
	if !w.dirty {
		w.mu.Unlock()
		return
	}
	w.dirty = false
	now, all := w.now(), []wordOf{}
	for t, said := range w.yes {
		if !counts(now, said) {
			delete(w.yes, t)
			continue
		}
		all = append(all, wordOf{t, said.Round(0)})
	}
	w.mu.Unlock()
	slices.SortFunc(all, func(a, b wordOf) int {
		return cmp.Or(strings.Compare(a.Allocation, b.Allocation), strings.Compare(a.Service, b.Service), strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Node, b.Node))
	})
	text, err := json.Marshal(all)
	if err == nil {
		err = durable.WriteFile(w.file, text)
	}
	if err != nil {
		w.log.Warn("what nomad said of its allocations is not on disk; a restart needs nomad", "file", w.file, "error", err)
	}
}
