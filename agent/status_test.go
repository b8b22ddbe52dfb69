package agent

import (
	"testing"
	"time"

	"github.com/kerege/kerege/api"
)

func TestAnApplicationWaitsForACertificateToo(t *testing.T) {
	now := time.Now()
	const refused = "no certificate yet: web shows no workload identity"
	for name, c := range map[string]struct {
		warm    bool
		expires time.Time
		reason  string
		want    api.AgentReady
	}{
		"all is there":                 {true, now.Add(time.Hour), "its capture was not looked at yet", api.AgentReady{Ready: true}},
		"its certificate has ended":    {true, now.Add(-time.Hour), "", api.AgentReady{Ready: true}},
		"Envoy took it in without one": {true, time.Time{}, refused, api.AgentReady{Why: refused}},
		"nobody has said why":          {true, time.Time{}, "", api.AgentReady{Why: "no certificate yet"}},
		"Envoy is not there":           {false, now.Add(time.Hour), "", api.AgentReady{Why: "Envoy is not connected"}},
		"neither is there":             {false, time.Time{}, refused, api.AgentReady{Why: refused}},
	} {
		row := api.AgentWorkload{State: "joining", Reason: c.reason, Expires: c.expires, Proxy: api.AgentProxy{Ready: c.warm}}
		if !c.warm {
			row.Proxy.Why = "Envoy is not connected"
		}
		c.want.State = "joining"
		if got := readiness(row); got != c.want {
			t.Errorf("%s: %+v, not %+v", name, got, c.want)
		}
	}
}
