package command

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/kerege/kerege/api"
)

func TestDevSaysAtOnceThatItIsFrozen(t *testing.T) {
	var out bytes.Buffer
	d := &devSession{call: &Call{terminal: terminal{err: &out}}, run: "/r"}
	d.setFrozen(nil)
	if out.Len() != 0 || d.patience() != devSettles {
		t.Errorf("%q", out.String())
	}
	d.setFrozen(&api.Frozen{Since: time.Now(), Reason: "a release"})
	d.setFrozen(&api.Frozen{Since: time.Now(), Reason: "a release", Waiting: 1})
	if text := out.String(); strings.Count(text, "FROZEN") != 1 || !strings.Contains(text, "(a release)") || !strings.Contains(text, "kerege thaw -addr unix:///r/server/api.sock") {
		t.Errorf("%q", text)
	}
	if d.patience() != devFrozen {
		t.Errorf("it waits %s", d.patience())
	}
	d.setFrozen(nil)
	if !strings.HasSuffix(out.String(), "Thawed: the Envoys are brought in step.\n") {
		t.Errorf("%q", out.String())
	}
}
