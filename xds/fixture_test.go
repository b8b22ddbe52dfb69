package xds

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/plan"
)

const testDomain = "test.example"

func testIdentity(name string) mesh.Identity {
	return mesh.Identity{TrustDomain: testDomain, Kind: mesh.KindSvcIdentity, Name: name}
}

// testPolicy lets the named services call.
func testPolicy(service string, port uint16, from ...string) *plan.Policy {
	p := &plan.Policy{
		Name: fmt.Sprintf("%s:%d", service, port), TrustDomain: testDomain, Bundle: []byte("roots"), Default: mesh.ActionDeny,
		Cause: mesh.Key{Kind: mesh.KindIntention, Name: service},
	}
	if len(from) > 0 {
		p.Allow = []mesh.Permission{{Action: mesh.ActionAllow, Name: "callers", From: from}}
	}
	for _, f := range from {
		p.Callers = append(p.Callers, testIdentity(f))
	}
	return p
}

func testInbound(service string, number, port uint16, protocol mesh.Protocol, p *plan.Policy) *plan.Inbound {
	return &plan.Inbound{
		Service: mesh.ServiceName(service), Number: number, Port: port, Protocol: protocol, MTLS: mesh.MTLSStrict, Policy: p,
		Cause: mesh.Key{Kind: mesh.KindService, Name: service},
	}
}

func testCluster(service string, port uint16, protocol mesh.Protocol, at ...netip.AddrPort) *plan.Cluster {
	name := fmt.Sprintf("%s:%d", service, port)
	var list []plan.Endpoint
	for _, a := range at {
		list = append(list, plan.Endpoint{Addr: a, Weight: 1, In: true})
	}
	slices.SortFunc(list, func(a, b plan.Endpoint) int { return a.Addr.Compare(b.Addr) })
	failures, atMost := uint32(5), 50.0
	return &plan.Cluster{
		Name: name, Service: mesh.ServiceName(service), Port: port, Protocol: protocol, Identity: testIdentity(service),
		MTLS: mesh.MTLSStrict, Balance: mesh.Balance{Policy: "round_robin"}, Budget: 20, Connect: time.Second, Idle: 5 * time.Minute,
		Outlier:   mesh.Outlier{Consecutive5xx: &failures, AtMost: &atMost},
		Cause:     mesh.Key{Kind: mesh.KindService, Name: service},
		Endpoints: &plan.Endpoints{Cluster: name, Groups: []plan.Group{{Locality: mesh.Locality{Region: "dc1"}, Endpoints: list}}, Cause: mesh.Key{Kind: mesh.KindInstances, Name: service}},
	}
}

func testUpstream(service string, port uint16, protocol mesh.Protocol, at ...netip.AddrPort) *plan.Upstream {
	c := testCluster(service, port, protocol, at...)
	to := []plan.Weighted{{Cluster: c.Name, Weight: 10000}}
	p := plan.UpstreamPort{
		Number: port, Protocol: protocol, Clusters: []*plan.Cluster{c}, Idle: 5 * time.Minute,
		Virtual: []netip.Addr{netip.MustParseAddr("240.0.0.7"), netip.MustParseAddr("fd6b:6572:6567::7")},
	}
	if !isTCP(protocol) {
		p.Route = &plan.Routes{Name: c.Name, Service: c.Service, Cause: mesh.Key{Kind: mesh.KindRoute, Name: service}, Rules: []plan.RouteRule{{
			Name: "default", To: to, Timeout: mesh.None, Idle: 5 * time.Minute,
			Retry: plan.Retry{Times: 2, On: mesh.DefaultRetryOn(), Safe: true, PerTry: mesh.None, Backoff: 25 * time.Millisecond, BackoffMax: 250 * time.Millisecond},
		}}}
	}
	if isTCP(protocol) || protocol == mesh.ProtocolUnknown {
		p.TCP = to
	}
	return &plan.Upstream{Service: mesh.ServiceName(service), Ports: []plan.UpstreamPort{p}, Cause: mesh.Key{Kind: mesh.KindService, Name: service}}
}

// testProxy is a proxy with a bit of everything, by capture.
func testProxy(service string, in []*plan.Inbound, out ...*plan.Upstream) *plan.Proxy {
	slices.SortFunc(out, func(a, b *plan.Upstream) int { return slices.Compare([]byte(a.Service), []byte(b.Service)) })
	return &plan.Proxy{
		Node: plan.Node{
			ID:          mesh.ProxyID{Service: mesh.ServiceName(service), Node: "n1"},
			InboundPort: 15006, OutboundPort: 15001,
		},
		Identity: testIdentity(service),
		Inbound:  in,
		Outbound: out,
		Outside:  plan.Outside{Mode: mesh.OutboundRegistered, Caller: mesh.ServiceName(service)},
	}
}
