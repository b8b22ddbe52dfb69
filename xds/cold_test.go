package xds

import (
	"fmt"
	"testing"

	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/plan"
)

// BenchmarkTranslateNewService is what a cold start pays for each service: its
// proxy's own listeners and policy, and the upstream that others call it by.
func BenchmarkTranslateNewService(b *testing.B) {
	proxies := make([]*plan.Proxy, 1000)
	for i := range proxies {
		name := fmt.Sprintf("web%d", i)
		up := testUpstream(fmt.Sprintf("api%d", i), 8080, mesh.ProtocolHTTP, at("10.0.0.1:8080"), at("10.0.0.2:8080"))
		proxies[i] = testProxy(name, []*plan.Inbound{testInbound(name, 80, 80, mesh.ProtocolHTTP, testPolicy(name, 80, "edge"))}, up)
		proxies[i].Outside.Caller = mesh.ServiceName(name)
	}
	b.ReportAllocs()
	for b.Loop() {
		tr := NewTranslator()
		for _, p := range proxies {
			if _, err := tr.Translate(p); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*len(proxies)), "µs/proxy")
}
