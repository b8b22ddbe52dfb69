package xds

import (
	"strings"
	"sync"
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	mutationv3 "github.com/envoyproxy/go-control-plane/envoy/config/common/mutation_rules/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	listenerv3 "github.com/envoyproxy/go-control-plane/envoy/config/listener/v3"
	routev3 "github.com/envoyproxy/go-control-plane/envoy/config/route/v3"
	headermutationv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/header_mutation/v3"
	rbacfilterv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/rbac/v3"
	routerv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/http/router/v3"
	hcmv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/filters/network/http_connection_manager/v3"
	"google.golang.org/protobuf/proto"

	"github.com/kerege/kerege/plan"
)

// connectionManager is what every HTTP chain has in common: one canonical form
// of a request, made where it enters and authorised as it is forwarded.
func (w *writer) connectionManager(stat string) *hcmv3.HttpConnectionManager {
	return &hcmv3.HttpConnectionManager{
		CodecType:  hcmv3.HttpConnectionManager_AUTO,
		StatPrefix: stat,
		CommonHttpProtocolOptions: &corev3.HttpProtocolOptions{
			IdleTimeout:                  dur(connectionIdle),
			MaxHeadersCount:              u32(100),
			HeadersWithUnderscoresAction: corev3.HttpProtocolOptions_REJECT_REQUEST,
		},
		HttpProtocolOptions:          &corev3.Http1ProtocolOptions{AcceptHttp_10: true, DefaultHostForHttp_10: "kerege.invalid"},
		Http2ProtocolOptions:         http2Options(false),
		MaxRequestHeadersKb:          u32(60),
		RequestHeadersTimeout:        dur(10 * time.Second),
		RequestTimeout:               dur(0), // uploads and streams live as long as they like
		StreamIdleTimeout:            dur(5 * time.Minute),
		DelayedCloseTimeout:          dur(time.Second),
		DrainTimeout:                 dur(5 * time.Second),
		ServerHeaderTransformation:   hcmv3.HttpConnectionManager_PASS_THROUGH,
		UseRemoteAddress:             no(), // a sidecar is no hop: x-forwarded-for stays what it was
		SkipXffAppend:                true,
		InternalAddressConfig:        noInternalAddress,
		GenerateRequestId:            no(),
		PreserveExternalRequestId:    true,
		ForwardClientCertDetails:     hcmv3.HttpConnectionManager_SANITIZE,
		NormalizePath:                yes(),
		MergeSlashes:                 true,
		PathWithEscapedSlashesAction: hcmv3.HttpConnectionManager_REJECT_REQUEST,
		StripTrailingHostDot:         true,
		UpgradeConfigs:               upgrades,
	}
}

var (
	noInternalAddress = &hcmv3.HttpConnectionManager_InternalAddressConfig{}
	upgrades          = []*hcmv3.HttpConnectionManager_UpgradeConfig{{UpgradeType: "websocket"}}
)

func (w *writer) httpFilter(name string, m proto.Message) *hcmv3.HttpFilter {
	return &hcmv3.HttpFilter{Name: name, ConfigType: &hcmv3.HttpFilter_TypedConfig{TypedConfig: w.any(m)}}
}

func (w *writer) router() *hcmv3.HttpFilter { return routerFilter() }

var routerFilter = constant(func(w *writer) *hcmv3.HttpFilter {
	return w.httpFilter("envoy.filters.http.router", &routerv3.Router{SuppressEnvoyHeaders: true})
})

// rules is the place of a port's RBAC. Until it has come, everything is denied.
func (w *writer) rules(p *plan.Policy) *hcmv3.HttpFilter {
	return &hcmv3.HttpFilter{Name: rbacName(p), ConfigType: rulesByName()}
}

var rulesByName = constant(func(w *writer) *hcmv3.HttpFilter_ConfigDiscovery {
	return &hcmv3.HttpFilter_ConfigDiscovery{ConfigDiscovery: &corev3.ExtensionConfigSource{
		ConfigSource:  adsSource(15 * time.Second),
		DefaultConfig: w.any(denyAll()),
		TypeUrls:      []string{w.any(&rbacfilterv3.RBAC{}).TypeUrl},
	}}
})

// strip takes away headers that only Envoys may say to each other.
func (w *writer) strip(request, response []string, add ...*corev3.HeaderValueOption) *hcmv3.HttpFilter {
	key := strings.Join(request, " ") + "," + strings.Join(response, " ")
	if made, ok := strips.Load(key); ok && len(add) == 0 {
		return made.(*hcmv3.HttpFilter)
	}
	m := &headermutationv3.Mutations{RequestMutations: removals(request), ResponseMutations: removals(response)}
	for _, h := range add {
		m.RequestMutations = append(m.RequestMutations, &mutationv3.HeaderMutation{Action: &mutationv3.HeaderMutation_Append{Append: h}})
	}
	out := w.httpFilter("envoy.filters.http.header_mutation", &headermutationv3.HeaderMutation{Mutations: m})
	if len(add) == 0 && w.err == nil {
		strips.Store(key, out)
	}
	return out
}

// strips are those that add nothing: there are three.
var strips sync.Map

func removals(prefixes []string) []*mutationv3.HeaderMutation {
	out := make([]*mutationv3.HeaderMutation, len(prefixes))
	for i, p := range prefixes {
		out[i] = &mutationv3.HeaderMutation{Action: &mutationv3.HeaderMutation_RemoveOnMatch_{
			RemoveOnMatch: &mutationv3.HeaderMutation_RemoveOnMatch{KeyMatcher: prefix(p)},
		}}
	}
	return out
}

func (w *writer) networkFilter(name string, m proto.Message) *listenerv3.Filter {
	return &listenerv3.Filter{Name: name, ConfigType: &listenerv3.Filter_TypedConfig{TypedConfig: w.any(m)}}
}

func (w *writer) httpChain(name string, m *hcmv3.HttpConnectionManager) *listenerv3.FilterChain {
	return &listenerv3.FilterChain{
		Name:             name,
		FilterChainMatch: &listenerv3.FilterChainMatch{},
		Filters:          []*listenerv3.Filter{w.networkFilter("envoy.filters.network.http_connection_manager", m)},
	}
}

// refusal is a chain that answers HTTP with a sentence and closes what is not
// HTTP: at its first bytes, or after a moment of silence.
func (w *writer) refusal(name string, status uint32, body string) *listenerv3.FilterChain {
	m := w.connectionManager(name)
	m.CommonHttpProtocolOptions.IdleTimeout = dur(2 * time.Second)
	m.LocalReplyConfig = &hcmv3.LocalReplyConfig{Mappers: []*hcmv3.ResponseMapper{{
		Filter:             statusIs(status),
		BodyFormatOverride: plainText(body),
	}}}
	m.RouteSpecifier = &hcmv3.HttpConnectionManager_RouteConfig{RouteConfig: &routev3.RouteConfiguration{
		Name: name,
		VirtualHosts: []*routev3.VirtualHost{{Name: name, Domains: []string{"*"}, Routes: []*routev3.Route{{
			Match:  &routev3.RouteMatch{PathSpecifier: &routev3.RouteMatch_Prefix{Prefix: "/"}},
			Action: directResponse(status, ""),
		}}}},
		ValidateClusters: no(),
	}}
	m.HttpFilters = []*hcmv3.HttpFilter{w.router()}
	return w.httpChain(name, m)
}

func plainText(format string) *corev3.SubstitutionFormatString {
	return &corev3.SubstitutionFormatString{
		Format: &corev3.SubstitutionFormatString_TextFormatSource{TextFormatSource: &corev3.DataSource{
			Specifier: &corev3.DataSource_InlineString{InlineString: format},
		}},
		ContentType: "text/plain; charset=utf-8",
	}
}

func statusIs(status uint32) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_StatusCodeFilter{
		StatusCodeFilter: &accesslogv3.StatusCodeFilter{Comparison: &accesslogv3.ComparisonFilter{
			Op:    accesslogv3.ComparisonFilter_EQ,
			Value: &corev3.RuntimeUInt32{DefaultValue: status, RuntimeKey: "kerege.unused"},
		}},
	}}
}

func flagIs(flags ...string) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_ResponseFlagFilter{
		ResponseFlagFilter: &accesslogv3.ResponseFlagFilter{Flags: flags},
	}}
}
