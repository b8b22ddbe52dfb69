package envoy

import (
	metricsv3 "github.com/envoyproxy/go-control-plane/envoy/config/metrics/v3"
	matcherv3 "github.com/envoyproxy/go-control-plane/envoy/type/matcher/v3"
)

// keptPrefixes and keptSuffixes are the statistics that Envoy keeps. A proxy that
// sees a thousand services would keep a quarter of a million otherwise.
var keptPrefixes = []string{
	"cluster_manager.", "control_plane.", "listener_manager.", "overload.", "runtime.", "server.", "sds.", "xds.",
}

var keptSuffixes = []string{
	// Calls.
	".downstream_rq_total", ".downstream_rq_active", ".downstream_rq_completed", ".downstream_rq_time",
	".downstream_rq_1xx", ".downstream_rq_2xx", ".downstream_rq_3xx", ".downstream_rq_4xx", ".downstream_rq_5xx",
	".upstream_rq_total", ".upstream_rq_active", ".upstream_rq_time", ".upstream_rq_timeout", ".upstream_rq_pending_overflow",
	".upstream_rq_1xx", ".upstream_rq_2xx", ".upstream_rq_3xx", ".upstream_rq_4xx", ".upstream_rq_5xx",
	".upstream_rq_retry", ".upstream_rq_retry_success", ".upstream_rq_retry_limit_exceeded", ".upstream_rq_retry_overflow",
	// Connections.
	".downstream_cx_total", ".downstream_cx_active", ".downstream_cx_overflow", ".downstream_cx_ssl_active",
	".downstream_cx_no_route", ".downstream_cx_rx_bytes_total", ".downstream_cx_tx_bytes_total", ".no_filter_chain_match",
	".upstream_cx_total", ".upstream_cx_active", ".upstream_cx_connect_fail", ".upstream_cx_connect_timeout",
	".ssl.handshake", ".ssl.connection_error", ".ssl.fail_verify_error", ".ssl.fail_verify_no_cert", ".ssl.fail_verify_san",
	".ssl.session_reused",
	// Instances.
	".membership_total", ".membership_healthy", ".lb_healthy_panic", ".outlier_detection.ejections_active",
	".outlier_detection.ejections_enforced_total", ".assignment_stale",
	// Configuration.
	".update_success", ".update_rejected", ".update_failure", ".init_fetch_timeout", ".update_time", ".version_text",
	".config_reload", ".config_fail", ".config_conflict",
	// Policy.
	".rbac.allowed", ".rbac.denied", ".rbac.shadow_denied",
}

func wanted() *metricsv3.StatsMatcher {
	list := &matcherv3.ListStringMatcher{}
	for _, p := range keptPrefixes {
		list.Patterns = append(list.Patterns, &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Prefix{Prefix: p}})
	}
	for _, s := range keptSuffixes {
		list.Patterns = append(list.Patterns, &matcherv3.StringMatcher{MatchPattern: &matcherv3.StringMatcher_Suffix{Suffix: s}})
	}
	return &metricsv3.StatsMatcher{StatsMatcher: &metricsv3.StatsMatcher_InclusionList{InclusionList: list}}
}
