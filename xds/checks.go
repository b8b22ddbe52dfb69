package xds

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	rbacfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/plan"
)

// checkChains are the ways into one port for what the host asks of it in
// plaintext: a chain for each of the host's addresses. On a port that takes no
// plaintext it answers the checks and nothing else; on one that does, the checks
// pass whatever the rules say, and everything else is judged as from anybody.
func (w *writer) checkChains(p *plan.Proxy, in *plan.Inbound) (out []*listenerv3.FilterChain) {
	asked := map[netip.Addr][]mesh.Probe{}
	for _, c := range p.Checks {
		from := p.Node.Bridge
		if c.From.IsValid() {
			from = []netip.Addr{c.From}
		}
		for _, a := range from {
			if c.Port == in.Number {
				asked[a] = append(asked[a], c)
			}
		}
	}
	open := in.MTLS == mesh.MTLSPermissive || in.MTLS == mesh.MTLSDisabled
	if open && isTCP(in.Protocol) {
		return nil // nobody looks into what is asked there, and the check is let in as anybody
	}
	for _, from := range slices.SortedFunc(maps.Keys(asked), netip.Addr.Compare) {
		var chain *listenerv3.FilterChain
		if open {
			chain = w.inboundHTTP(in, false, w.checkRoutes(in, asked[from])...)
			if in.Protocol == mesh.ProtocolUnknown {
				chain.FilterChainMatch.ApplicationProtocols = plaintextHTTP
			}
		} else {
			chain = w.checksAlone(in, asked[from])
		}
		chain.Name = "check/" + from.String()
		chain.FilterChainMatch.TransportProtocol = "raw_buffer"
		chain.FilterChainMatch.SourcePrefixRanges = []*corev3.CidrRange{{AddressPrefix: from.String(), PrefixLen: wrapperspb.UInt32(uint32(from.BitLen()))}}
		out = append(out, chain)
	}
	return out
}

// checksAlone answers checks, and 403 to everything else.
func (w *writer) checksAlone(in *plan.Inbound, asked []mesh.Probe) *listenerv3.FilterChain {
	m := w.connectionManager("check/" + clusterName(in.Service, in.Number))
	m.UpgradeConfigs = nil
	m.LocalReplyConfig = &hcmv3.LocalReplyConfig{Mappers: []*hcmv3.ResponseMapper{{
		Filter: statusIs(403), BodyFormatOverride: plainText("kerege: from its host " + escape(clusterName(in.Service, in.Port)) + " answers in plaintext to the checks of its job alone.\n"),
	}}}
	theirs := []string{"x-envoy-", "x-kerege-"}
	routes := append(w.checkRoutes(in, asked), &routev3.Route{
		Name: "refused", Match: &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}}, Action: directResponse(403, ""),
	})
	for _, r := range routes {
		r.TypedPerFilterConfig = nil // there are no rules
	}
	m.RouteSpecifier = &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: &routev3.RouteConfiguration{
		Name: "check", VirtualHosts: []*routev3.VirtualHost{{Name: "check", Domains: []string{"*"}, Routes: routes}}, ValidateClusters: no(),
	}}
	m.HttpFilters = []*hcmv3.HttpFilter{w.strip(theirs, theirs), w.router()}
	return w.httpChain("check", m)
}

// checkRoutes lead checks, by method and whole path, past the port's rules.
func (w *writer) checkRoutes(in *plan.Inbound, asked []mesh.Probe) (out []*routev3.Route) {
	is := func(header, value string) *routev3.HeaderMatcher {
		return &routev3.HeaderMatcher{Name: header, HeaderMatchSpecifier: &routev3.HeaderMatcher_StringMatch{StringMatch: exact(value)}}
	}
	for i, c := range asked {
		methods := []string{c.Method}
		if c.Method == "GET" {
			methods = append(methods, "HEAD")
		}
		for _, method := range methods {
			for _, to := range w.appRoutes(in) {
				r := proto.CloneOf(to)
				r.Name = fmt.Sprintf("check[%d]", i)
				r.Match.Headers = append(r.Match.Headers, is(":method", method), is(":path", c.Path))
				r.TypedPerFilterConfig = map[string]*anypb.Any{rbacName(in.Policy): w.any(&rbacfilterv3.RBACPerRoute{})}
				out = append(out, r)
			}
		}
	}
	return out
}
