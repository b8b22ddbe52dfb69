//go:build e2e

package suite

import (
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/kerege/kerege/e2e/lab"
)

// A server restarts while every agent is away: who is in the mesh is a durable
// fact, so nothing changes for anyone, nor for a caller whose agent comes back.
func TestServerRestartsWithEveryAgentAway(t *testing.T) {
	ctx, w, text := pair(t, allowWeb)
	web := w.Hosts["web"]
	must(t, web.WaitFor(ctx, api+"/", 200, 10*time.Second))
	t.Run("sentences", func(t *testing.T) {
		for command, wants := range map[string][]string{
			"status":                    {`(?m)^mesh +test\.example +mtls strict, default_intention deny`, `(?m)^generation +1, applied .* from 1 file`, `(?m)^sources +file ok, seen`, `3 hosts in the mesh`, `(?m)^proxies +3`},
			"services api":              {`(?m)^api +:8080 http strict`, `(?m)^ +10\.77\.0\.12:8080 +api1 +file +healthy +\.v1 +in`, `(?m)^ +10\.77\.0\.13:8080 +api2 +file +healthy +\.v2 +in`, `may be called by web`},
			"explain -from web -to api": {`allowed by an allow block of the intention "api"`, `mesh\.hcl:\d+`, `(?m)^allowed`},
			"explain -from api -to web": {`refused`, `intention "web" \{`},
			"proxies":                   {`web/web`, `api/api1`, `api/api2`, `(?i)in sync|synced`},
			"intentions":                {`api`, `web`, `mesh\.hcl:\d+`},
		} {
			out, _ := w.Ask(ctx, strings.Fields(command)...)
			for _, want := range wants {
				if !regexp.MustCompile(want).MatchString(out) {
					t.Errorf("kerege %s does not say %s:\n%s", command, want, out)
				}
			}
		}
	})
	r, err := web.LoadDuring(ctx, api+"/", 100, 9*time.Second, func() error {
		for _, h := range w.Hosts {
			h.Agent.KillAlone()
		}
		w.ServerProc.Kill()
		if err := w.RunServer(ctx); err != nil {
			return err
		}
		time.Sleep(2 * time.Second) // a server that guessed would have told by now
		out, _ := w.Ask(ctx, "services", "api")
		if n := strings.Count(out, " in"); n < 2 || strings.Contains(out, "held") {
			t.Errorf("who is in was lost with the streams:\n%s", out)
		}
		if err := web.StartAgent(ctx); err != nil {
			return err
		}
		return lab.Until(ctx, 10*time.Second, "web's agent to be back", func() error {
			out, _ := w.Ask(ctx, "proxies")
			if !strings.Contains(out, "web/web") {
				return errText(out)
			}
			return nil
		})
	})
	must(t, err)
	none(t, "server restarted with every agent away", r)
	bothAnswer(t, ctx, web.Load)
	t.Run("a change of a cluster under load (C11)", func(t *testing.T) {
		r, err := web.LoadDuring(ctx, api+"/", 200, 4*time.Second, func() error {
			for i := range 10 {
				changed := strings.Replace(text, "consecutive_5xx = 3", "consecutive_5xx = "+string(rune('4'+i%5)), 1)
				if err := w.Apply(ctx, changed); err != nil {
					return err
				}
				time.Sleep(200 * time.Millisecond)
			}
			return nil
		})
		must(t, err)
		none(t, "ten changes of a cluster", r)
	})
	for _, name := range []string{"api1", "api2"} {
		must(t, w.Hosts[name].StartAgent(ctx))
	}
}
