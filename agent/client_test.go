package agent

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kerege/kerege/api"
)

// A task without the agent's socket hears what it lacks, from each command it runs.
func TestANodeWithoutAnAgentIsNamed(t *testing.T) {
	c, err := NewClient("unix://" + filepath.Join(t.TempDir(), "api.sock"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), 2*waitEvery+50*time.Millisecond)
	defer stop()
	for what, err := range map[string]error{"envoy": c.Claim(ctx, "web", api.AgentClaim{Workload: "w"}), "wait": c.Wait(ctx, "web", "w")} {
		if err == nil || !strings.Contains(err.Error(), "`kerege agent` is to run on this node") || !strings.Contains(err.Error(), "mounted into it") {
			t.Errorf("%s: %v", what, err)
		}
	}
}
