package mesh

import (
	"testing"
	"time"
)

func TestMarks(t *testing.T) {
	at := time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC)
	m := Mark("vm-1", at)
	if !IsMark(m) || m != Mark("vm-1", at.Local()) {
		t.Errorf("%q", m)
	}
	for _, other := range []string{Mark("vm-2", at), Mark("vm-1", at.Add(1)), Mark("vm-1", time.Time{})} {
		if other == m || !IsMark(other) {
			t.Errorf("%q beside %q", other, m)
		}
	}
	for _, text := range []string{"", "mark.invalid", ".mark.invalid", "x" + m, m[1:], m + ".", "z" + m[1:], "api.example"} {
		if IsMark(text) {
			t.Errorf("%q is taken for one", text)
		}
	}
}
