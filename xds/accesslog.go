package xds

import (
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	accesslogdatav3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	streamv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/stream/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/kerege/kerege/plan"
)

const rbacMetadata = "envoy.filters.http.rbac"

// denials tells of each call that a port's rules refuse, on Envoy's standard
// error: as JSON, whose escapes keep hostile text harmless. The rule is the name
// of the deny block that matched; none, when no allow block did.
func (w *writer) denials(in *plan.Inbound) *accesslogv3.AccessLog {
	text := structpb.NewStringValue
	format := &structpb.Struct{Fields: map[string]*structpb.Value{
		"@message":    text("call denied"),
		"@timestamp":  text("%START_TIME%"),
		"destination": text(escape(clusterName(in.Service, in.Port))),
		"caller":      text("%DOWNSTREAM_PEER_URI_SAN%"),
		"address":     text("%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%"),
		"method":      text("%REQ(:METHOD)%"),
		"path":        text("%REQ(:PATH)%"),
		"rule":        text("%DYNAMIC_METADATA(" + rbacMetadata + ":shadow_effective_policy_id)%"),
		"details":     text("%RESPONSE_CODE_DETAILS%"),
	}}
	return &accesslogv3.AccessLog{
		Name: "envoy.access_loggers.stderr",
		// Once a call: one whose caller does not read its refusal stays for a while.
		Filter: allLogs(logTypes(accesslogdatav3.AccessLogType_DownstreamEnd), ofRules("enforced_engine_result", "denied")),
		ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: w.any(&streamv3.StderrAccessLog{
			AccessLogFormat: &streamv3.StderrAccessLog_LogFormat{LogFormat: &corev3.SubstitutionFormatString{
				Format:          &corev3.SubstitutionFormatString_JsonFormat{JsonFormat: format},
				OmitEmptyValues: true,
			}},
		})},
	}
}

// ofRules lets calls through of which a port's rules say this.
func ofRules(key, value string) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_MetadataFilter{
		MetadataFilter: &accesslogv3.MetadataFilter{
			Matcher: &matcherv3.MetadataMatcher{
				Filter: rbacMetadata,
				Path:   []*matcherv3.MetadataMatcher_PathSegment{{Segment: &matcherv3.MetadataMatcher_PathSegment_Key{Key: key}}},
				Value:  &matcherv3.ValueMatcher{MatchPattern: &matcherv3.ValueMatcher_StringMatch{StringMatch: exact(value)}},
			},
			MatchIfKeyNotFound: no(),
		},
	}}
}
