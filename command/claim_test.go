package command

import (
	"bytes"
	"strings"
	"testing"

	"github.com/hashicorp/go-hclog"

	"github.com/kerege/kerege/api"
)

func TestTroubleThatStaysIsSaidOnce(t *testing.T) {
	var out bytes.Buffer
	log := hclog.New(&hclog.LoggerOptions{Output: &out})
	var x trouble
	see := func(want int, ready bool, why ...string) {
		t.Helper()
		for _, w := range why {
			x.look(log, api.AgentReady{Ready: ready, Why: w})
		}
		if got := strings.Count(out.String(), "\n"); got != want {
			t.Errorf("after %q: %d lines\n%s", why, got, out.String())
		}
	}
	see(0, false, "a", "b", "c")
	see(1, false, "c", "c", "c")
	see(2, false, "d", "d", "d")
	see(2, true, "", "")
	see(3, false, "d", "d", "d")
	if !strings.Contains(out.String(), "why=c") {
		t.Error(out.String())
	}
}
