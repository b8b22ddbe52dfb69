package xds

import (
	"fmt"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"

	"github.com/kerege/kerege/mesh"
)

// What both sides of a connection between sidecars agree on. The ALPN is only
// offered, never answered: the inbound side picks its chain by it, and leaves the
// choice between HTTP/1.1 and HTTP/2 to the first bytes.
const (
	alpnHTTP = "kerege"
	alpnTCP  = "kerege-tcp"
)

// Secrets that the agent serves on the proxy's own socket.
const (
	agentCluster   = "kerege-agent"
	identitySecret = "identity"
	bundleSecret   = "bundle"
)

// agentSDS is where a proxy's certificate and roots come from. Its bytes are
// fixed by a golden test: Envoy takes a changed source for a new provider, and
// waits for secrets that it already holds. It waits for ever: a listener without
// a certificate must never open.
func agentSDS() *corev3.ConfigSource { return sdsOfAgent() }

var sdsOfAgent = constant(func(*writer) *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ResourceApiVersion:  corev3.ApiVersion_V3,
		InitialFetchTimeout: dur(0),
		ConfigSourceSpecifier: &corev3.ConfigSource_ApiConfigSource{ApiConfigSource: &corev3.ApiConfigSource{
			ApiType:             corev3.ApiConfigSource_DELTA_GRPC,
			TransportApiVersion: corev3.ApiVersion_V3,
			GrpcServices: []*corev3.GrpcService{{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{
				EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: agentCluster},
			}}},
			SetNodeOnFirstMessageOnly: true,
		}},
	}
})

// adsSource is the stream that everything else comes over.
func adsSource(wait time.Duration) *corev3.ConfigSource {
	return &corev3.ConfigSource{
		ResourceApiVersion:    corev3.ApiVersion_V3,
		InitialFetchTimeout:   dur(wait),
		ConfigSourceSpecifier: &corev3.ConfigSource_Ads{Ads: &corev3.AggregatedConfigSource{}},
	}
}

func secret(name string, from *corev3.ConfigSource) *tlsv3.SdsSecretConfig {
	return &tlsv3.SdsSecretConfig{Name: name, SdsConfig: from}
}

func commonTLS() *tlsv3.CommonTlsContext {
	return &tlsv3.CommonTlsContext{TlsParams: tlsVersions(), TlsCertificateSdsSecretConfigs: ownCertificate()}
}

var tlsVersions = constant(func(*writer) *tlsv3.TlsParameters {
	return &tlsv3.TlsParameters{
		TlsMinimumProtocolVersion: tlsv3.TlsParameters_TLSv1_2,
		TlsMaximumProtocolVersion: tlsv3.TlsParameters_TLSv1_3,
	}
})

var ownCertificate = constant(func(*writer) []*tlsv3.SdsSecretConfig {
	return []*tlsv3.SdsSecretConfig{secret(identitySecret, agentSDS())}
})

// expect takes roots from the agent and the names to accept from here.
func expect(sans ...*matcherv3.StringMatcher) *tlsv3.CommonTlsContext_CombinedValidationContext {
	return &tlsv3.CommonTlsContext_CombinedValidationContext{
		CombinedValidationContext: &tlsv3.CommonTlsContext_CombinedCertificateValidationContext{
			DefaultValidationContext:         &tlsv3.CertificateValidationContext{MatchTypedSubjectAltNames: uriSANs(sans)},
			ValidationContextSdsSecretConfig: secret(bundleSecret, agentSDS()),
		},
	}
}

func uriSANs(sans []*matcherv3.StringMatcher) []*tlsv3.SubjectAltNameMatcher {
	out := make([]*tlsv3.SubjectAltNameMatcher, len(sans))
	for i, s := range sans {
		out[i] = &tlsv3.SubjectAltNameMatcher{SanType: tlsv3.SubjectAltNameMatcher_URI, Matcher: s}
	}
	return out
}

// upstreamTLS is how a caller's Envoy speaks to an instance's.
func (w *writer) upstreamTLS(id mesh.Identity, port uint16, alpn string) *corev3.TransportSocket {
	common := commonTLS()
	common.ValidationContextType = expect(exact(id.String()))
	common.AlpnProtocols = []string{alpn}
	return w.socket(&tlsv3.UpstreamTlsContext{
		CommonTlsContext: common,
		Sni:              fmt.Sprintf("%d.%s.%s", port, id.Name, id.TrustDomain),
		MaxSessionKeys:   u32(0), // no resumption: each connection proves who it is
	})
}

// inboundTLS asks every caller for a certificate. An HTTP port takes any service
// of the trust domain and lets RBAC decide per request; a TCP port takes the
// callers that its policy names, in the handshake.
func (w *writer) inboundTLS(trustDomain, callers string) *corev3.TransportSocket {
	common := commonTLS()
	if callers == "" {
		common.ValidationContextType = expect(prefix(servicePrefix(trustDomain)))
	} else {
		common.ValidationContextType = &tlsv3.CommonTlsContext_ValidationContextSdsSecretConfig{
			ValidationContextSdsSecretConfig: secret(callers, adsSource(0)),
		}
	}
	return w.socket(&tlsv3.DownstreamTlsContext{
		CommonTlsContext:         common,
		RequireClientCertificate: yes(),
		SessionTicketKeysType: &tlsv3.DownstreamTlsContext_DisableStatelessSessionResumption{
			DisableStatelessSessionResumption: true,
		},
		DisableStatefulSessionResumption: true,
	})
}

func servicePrefix(trustDomain string) string { return "spiffe://" + trustDomain + "/svc/" }

func exact(s string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Exact{Exact: s}}
}

func prefix(s string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: s}}
}

// regex matches a whole string by RE2.
func regex(s string) *matcherv3.StringMatcher {
	return &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_SafeRegex{SafeRegex: &matcherv3.RegexMatcher{Regex: s}}}
}
