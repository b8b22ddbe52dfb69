package agent

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/kerege/kerege/agent/capture"
	"github.com/kerege/kerege/api"
)

// TestThePlanKnowsTheMesh: how strict a workload is, what calls of no service
// meet, and who is at an address, as a real server says; without one, that
// nothing is known.
func TestThePlanKnowsTheMesh(t *testing.T) {
	p := newPlace(t, strings.Replace(oneNode, "trust_domain = \"t.example\"", "\n  trust_domain = \"t.example\"\n  mtls = \"permissive\"\n  outbound = \"any\"\n", 1))
	fake := &fakeCapture{}
	p.cap = fake
	p.startServer()
	p.startNode()
	if _, err := p.client.Join(p.ctx, api.AgentJoin{Token: p.token()}); err != nil {
		t.Fatal(err)
	}
	know := func() capture.Known {
		if _, err := p.client.CapturePlan(p.ctx, "", 0); err != nil {
			t.Fatal(err)
		}
		fake.mu.Lock()
		defer fake.mu.Unlock()
		return fake.known
	}
	p.until("web", func() bool { return p.web().Service != "" })
	k := know()
	if k.Mode["web"] != "permissive" || k.Outbound != "any" || k.Unknown != "" {
		t.Errorf("known: %+v", k)
	}
	// Nobody asked for this address, for it has no connection.
	if at := netip.MustParseAddrPort("127.0.0.2:18081"); k.Service(at) != "" || k.InMesh(at.Addr()) || k.HostName(at.Addr()) != "" {
		t.Error("it knows what it did not ask")
	}
	p.stopServer()
	p.until("away", func() bool { st, _ := p.client.Status(p.ctx); return !st.Servers.Connected })
	if k := know(); k.Unknown == "" || k.Mode["web"] != "permissive" || k.InMesh(netip.MustParseAddr("127.0.0.2")) {
		t.Errorf("without a server: %+v", k)
	}
}
