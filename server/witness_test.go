package server

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/kerege/kerege/registry/nomad"
)

func TestNomadsLastWordCountsWhileItIsAway(t *testing.T) {
	start := time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)
	now := start
	k, file := &knows{}, filepath.Join(t.TempDir(), "words.json")
	open := func() *lastWord {
		return newLastWord(k, file, hclog.NewNullLogger(), func() time.Time { return now })
	}
	w := open()
	tie := nomad.Tie{Namespace: "team", Allocation: "a1", Node: "n1", Service: "api"}
	says := func(tie nomad.Tie, want string) {
		t.Helper()
		err := w.Registers(t.Context(), tie)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("at %s: %v, not %q", now.Sub(start), err, want)
		}
		if want != "" && errors.Is(k.err, nomad.ErrAway) && !errors.Is(err, nomad.ErrAway) {
			t.Errorf("%v is taken for nomad's no", err)
		}
	}
	away := fmt.Errorf("%w: connection refused", nomad.ErrAway)
	k.err = away
	says(tie, "its first certificate waits")
	k.err = nil
	says(tie, "")
	now, k.err = now.Add(23*time.Hour), away
	says(tie, "")
	for name, other := range map[string]nomad.Tie{
		"allocation": {Namespace: "team", Allocation: "a2", Node: "n1", Service: "api"},
		"node":       {Namespace: "team", Allocation: "a1", Node: "n2", Service: "api"},
		"service":    {Namespace: "team", Allocation: "a1", Node: "n1", Service: "bank"},
		"namespace":  {Namespace: "x", Allocation: "a1", Node: "n1", Service: "api"},
	} {
		if err := w.Registers(t.Context(), other); err == nil {
			t.Errorf("another %s is believed", name)
		}
	}
	w.save()
	w = open() // a restart
	says(tie, "")
	now = start.Add(24*time.Hour + time.Second) // believing it did not make it younger
	says(tie, "too old")
	now = start.Add(-time.Second)
	says(tie, "too old")
	now, k.err = start.Add(time.Hour), nil
	says(tie, "")
	k.err = errors.New("the allocation is over")
	says(tie, "is over")
	k.err = away
	says(tie, "its first certificate waits") // a no is the end of it
	w.save()
	w = open()
	says(tie, "its first certificate waits")
}

func TestNomadsWordsOnDiskThatAreDamaged(t *testing.T) {
	file := filepath.Join(t.TempDir(), "words.json")
	noError(t, os.WriteFile(file, []byte(`[{"Allocation":"a1"`), 0o600))
	w := newLastWord(&knows{err: nomad.ErrAway}, file, hclog.NewNullLogger(), time.Now)
	if err := w.Registers(t.Context(), nomad.Tie{Allocation: "a1"}); err == nil {
		t.Error("half a file is believed")
	}
}
