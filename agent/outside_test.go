package agent

import (
	"strings"
	"testing"

	"github.com/kerege/kerege/agent/capture"
	"github.com/kerege/kerege/api"
)

// captured is a place whose one workload is in, by a capture that works.
func captured(t *testing.T) (*place, *fakeCapture) {
	f := &fakeCapture{}
	p := newPlace(t, oneNode)
	p.cap = f
	p.startServer()
	p.startNode()
	p.agent.find = func(string, ...uint16) ([]capture.Listener, error) {
		return []capture.Listener{{Port: 18080, PID: 812, UID: 33, User: "www-data"}}, nil
	}
	if _, err := p.client.Join(p.ctx, api.AgentJoin{Token: p.token()}); err != nil {
		t.Fatal(err)
	}
	p.envoy()
	if err := p.client.Wait(p.ctx, "web", ""); err != nil {
		t.Fatal(err)
	}
	if applied, err := p.client.CaptureApply(p.ctx, api.CaptureApply{}); err != nil || !applied.Confirmed {
		t.Fatalf("applied: %+v %v", applied, err)
	}
	p.until("in", func() bool { w := p.web(); return w.State == "in" && w.Accepted })
	return p, f
}

// held is why the server keeps web from its callers.
func (p *place) held() string {
	c, err := api.NewClient(api.Options{Address: "unix://" + p.dir + "/srun/server/api.sock"})
	if err != nil {
		p.t.Fatal(err)
	}
	var all []api.Service
	if err := c.Get(p.ctx, "/v1/services", &all); err != nil {
		p.t.Fatal(err)
	}
	for _, v := range all {
		if v.Name == "web" {
			return v.Instances[0].Held
		}
	}
	return ""
}

func TestTheCaptureIsRemovedBehindTheMembership(t *testing.T) {
	p, f := captured(t)
	out, err := p.client.CaptureRemove(p.ctx, api.CaptureRemove{})
	if err != nil || !out.Changed || !out.Acknowledged || len(out.Out) != 1 || out.Out[0] != "web" {
		t.Fatalf("removed: %+v %v", out, err)
	}
	p.until("the reason at the server", func() bool { return strings.Contains(p.held(), "removed by hand; kerege capture apply on n1") })
	p.until("the way back", func() bool {
		w := p.web()
		return w.State == "joining" && !w.Accepted && strings.Contains(w.Reason, "kerege capture apply")
	})
	if out, err := p.client.CaptureRemove(p.ctx, api.CaptureRemove{}); err != nil || len(out.Out) != 0 {
		t.Errorf("again: %+v %v", out, err)
	}
	if _, err := p.client.CaptureApply(p.ctx, api.CaptureApply{}); err != nil {
		t.Fatal(err)
	}
	p.until("in again", func() bool { w := p.web(); return w.State == "in" && w.Accepted && p.held() == "" })

	p.stopServer()
	p.until("the server's absence", func() bool { st, err := p.client.Status(p.ctx); return err == nil && !st.Servers.Connected })
	if _, err := p.client.CaptureRemove(p.ctx, api.CaptureRemove{}); err == nil || !strings.Contains(err.Error(), "cannot be told") || !strings.Contains(err.Error(), "-force") {
		t.Errorf("without a server: %v", err)
	}
	if w := p.web(); w.State != "in" || !f.st.Applied {
		t.Errorf("a refused removal changed something: %+v", w)
	}
	if out, err := p.client.CaptureRemove(p.ctx, api.CaptureRemove{Force: true, Timeout: 0.05}); err != nil || !out.Changed || out.Acknowledged || len(out.Out) != 1 {
		t.Errorf("forced: %+v %v", out, err)
	}
	p.startServer()
	p.until("the reason at the server", func() bool { return strings.Contains(p.held(), "removed by hand") })
}

func TestWhatIsNotCapturedIsOut(t *testing.T) {
	p, f := captured(t)
	f.mu.Lock()
	f.lost, f.broken = "its capture's rules are gone", "the rules are gone"
	f.mu.Unlock()
	p.until("out, with the reason", func() bool { return strings.Contains(p.held(), "rules are gone; kerege capture apply on n1") })
	f.mu.Lock()
	f.lost, f.broken = "", ""
	f.mu.Unlock()
	p.until("in again", func() bool { w := p.web(); return w.State == "in" && w.Accepted && p.held() == "" })
}

func TestNothingToLeave(t *testing.T) {
	p, f := captured(t)
	if _, err := p.client.Leave(p.ctx, api.AgentLeave{Service: "nosuch"}); err == nil || !strings.Contains(err.Error(), "no registry places nosuch on n1") || !strings.Contains(err.Error(), "here are: web") {
		t.Errorf("a service that is not here: %v", err)
	}
	if out, err := p.client.Leave(p.ctx, api.AgentLeave{Service: "web"}); err != nil || len(out.Left) != 1 || !out.Acknowledged || !out.CaptureRemoved || out.Nothing != "" {
		t.Errorf("left: %+v %v", out, err)
	}
	if out, err := p.client.Leave(p.ctx, api.AgentLeave{Service: "web"}); err != nil || len(out.Left) != 0 || out.CaptureRemoved || !strings.Contains(out.Nothing, "has left already") {
		t.Errorf("again: %+v %v", out, err)
	}
	if out, err := p.client.Leave(p.ctx, api.AgentLeave{}); err != nil || !out.Identity || out.CaptureRemoved || out.Acknowledged {
		t.Errorf("the host: %+v %v", out, err)
	}
	if out, err := p.client.Leave(p.ctx, api.AgentLeave{}); err != nil || out.Identity || !strings.Contains(out.Nothing, "not in a mesh") {
		t.Errorf("the host again: %+v %v", out, err)
	}
	if n := strings.Count(f.text(), "remove"); n != 1 {
		t.Errorf("removed %d times: %s", n, f.text())
	}
	c, err := api.NewClient(api.Options{Address: "unix://" + p.dir + "/srun/server/api.sock"})
	if err != nil {
		t.Fatal(err)
	}
	p.until("the list without the host", func() bool {
		var st api.Status
		return c.Get(p.ctx, "/v1/status", &st) == nil && len(st.Nodes) == 1 && st.Nodes[0].State == "left"
	})
}

func TestJoiningWhatIsInOrWasSentAway(t *testing.T) {
	p, _ := captured(t)
	c, err := api.NewClient(api.Options{Address: "unix://" + p.dir + "/srun/server/api.sock"})
	if err != nil {
		t.Fatal(err)
	}
	var other api.Token
	if err := c.Post(p.ctx, "/v1/tokens", api.TokenRequest{Node: "n2", TTLSeconds: 60}, &other); err != nil {
		t.Fatal(err)
	}
	if _, err := p.client.Join(p.ctx, api.AgentJoin{Token: other.Token}); err == nil || !strings.Contains(err.Error(), "the token is for the node n2") {
		t.Errorf("another node's token: %v", err)
	}
	if got, err := p.client.Join(p.ctx, api.AgentJoin{Token: p.token()}); err != nil || !got.Already {
		t.Errorf("its own: %+v %v", got, err)
	}
	var away api.NodeAway
	if err := c.Post(p.ctx, "/v1/nodes/n1/evict", nil, &away); err != nil {
		t.Fatal(err)
	}
	token := p.token()
	p.until("joined right after it was sent away", func() bool { // its stream has not ended; one try a second
		got, err := p.client.Join(p.ctx, api.AgentJoin{Token: token})
		if got.Already {
			t.Fatalf("%+v", got)
		}
		return err == nil
	})
}
