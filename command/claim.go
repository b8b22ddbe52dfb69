package command

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/kerege/kerege/agent"
	"github.com/kerege/kerege/api"
)

// claimEvery is how soon an agent that was restarted, and a token that Nomad has
// renewed, find each other.
const claimEvery = 2 * time.Second

// evidence is the workload identity that Nomad gave this task; "" where it gave
// none. Nomad writes the file anew before it ends.
func evidence() string {
	if dir := os.Getenv("NOMAD_SECRETS_DIR"); dir != "" {
		if text, err := os.ReadFile(filepath.Join(dir, "nomad_kerege.jwt")); err == nil {
			return strings.TrimSpace(string(text))
		}
	}
	return os.Getenv("NOMAD_TOKEN_kerege")
}

// showClaim tells the agent in whose network namespace this process is, and shows
// the evidence of it. A proxy of a host's only workload has nothing to show.
func showClaim(ctx context.Context, client *agent.Client, service, workload string) error {
	if workload == "" {
		return nil
	}
	return client.Claim(ctx, service, api.AgentClaim{Workload: workload, Evidence: evidence()})
}

// keepClaiming repeats the claim until stop is called.
func keepClaiming(ctx context.Context, log hclog.Logger, a *agentFlags, service, workload string) (stop func()) {
	client, err := a.client()
	if err != nil || workload == "" {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	wg.Go(func() {
		said, stands := "", trouble{}
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(claimEvery):
			}
			err := showClaim(ctx, client, service, workload)
			switch {
			case err == nil:
				said = ""
				if r, err := client.Ready(ctx, service, workload); err == nil {
					stands.look(log, r)
				}
			case !errors.Is(err, context.Canceled) && err.Error() != said:
				said = err.Error()
				log.Warn("the agent does not take this allocation's word", "why", said)
			}
		}
	})
	return func() { cancel(); wg.Wait() }
}

// trouble is why a proxy is not ready, so that the logs of its allocation, which is
// what the job's owner can read, say it too: once, and not what passes by itself.
type trouble struct{ last, said string }

func (t *trouble) look(log hclog.Logger, r api.AgentReady) {
	switch {
	case r.Ready:
		t.last, t.said = "", ""
	case r.Why != t.last:
		t.last = r.Why
	case r.Why != t.said:
		t.said = r.Why
		log.Warn("the proxy is not ready", "why", r.Why)
	}
}
