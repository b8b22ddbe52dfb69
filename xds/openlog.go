package xds

import (
	"time"

	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/config/accesslog/v3"
	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	accesslogdatav3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	grpclogv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/access_loggers/grpc/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"

	"github.com/kerege/kerege/plan"
)

// The agent is told who holds what open, so that it can cut a caller that loses
// its right. All of it is fixed in the listener: no rule ever changes it. Where the
// agent is away, Envoy keeps logBuffer bytes and drops what is more; no call waits.
const (
	// callRuns is how long an HTTP call runs before the agent hears of it. Most never
	// do, and cost nothing.
	callRuns = 250 * time.Millisecond
	// toldAgain is how often an open TCP connection is told of again, and a running
	// call on average: an agent that was away learns of all of them so.
	toldAgain = 10 * time.Second
	logFlush  = 100 * time.Millisecond
	logBuffer = 64 << 10 // bytes
)

// openConnections tells of each TCP connection that was let in, and of its end.
func (w *writer) openConnections(p *plan.Policy) *accesslogv3.AccessLog {
	return &accesslogv3.AccessLog{
		Name: "envoy.access_loggers.tcp_grpc",
		Filter: logTypes(accesslogdatav3.AccessLogType_TcpUpstreamConnected, accesslogdatav3.AccessLogType_TcpPeriodic,
			accesslogdatav3.AccessLogType_TcpConnectionEnd),
		ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: w.any(&grpclogv3.TcpGrpcAccessLogConfig{CommonConfig: toAgent(p)})},
	}
}

// runningCalls tells of each HTTP call that runs for callRuns, now and then that
// it still does, and of its end.
func (w *writer) runningCalls(p *plan.Policy) *accesslogv3.AccessLog {
	return &accesslogv3.AccessLog{
		Name: "envoy.access_loggers.http_grpc",
		Filter: anyLog(
			allLogs(
				logTypes(accesslogdatav3.AccessLogType_DownstreamPeriodic, accesslogdatav3.AccessLogType_DownstreamEnd),
				lasted(accesslogv3.ComparisonFilter_GE, callRuns*4/5), // the timer's first tick may seem early by a moment
				anyLog(
					logTypes(accesslogdatav3.AccessLogType_DownstreamEnd),
					lasted(accesslogv3.ComparisonFilter_LE, 4*callRuns), // or late, or what it said was lost
					sampled(uint32(1_000_000*callRuns/toldAgain)),
				),
			),
			allLogs(logTypes(accesslogdatav3.AccessLogType_DownstreamEnd), ofRules("shadow_effective_policy_id", ruleAway)),
		),
		ConfigType: &accesslogv3.AccessLog_TypedConfig{TypedConfig: w.any(&grpclogv3.HttpGrpcAccessLogConfig{
			CommonConfig: toAgent(p), AdditionalRequestHeadersToLog: []string{":method"},
		})},
	}
}

func toAgent(p *plan.Policy) *grpclogv3.CommonGrpcAccessLogConfig {
	return &grpclogv3.CommonGrpcAccessLogConfig{
		LogName:             openName(p),
		TransportApiVersion: corev3.ApiVersion_V3,
		GrpcService: &corev3.GrpcService{TargetSpecifier: &corev3.GrpcService_EnvoyGrpc_{
			EnvoyGrpc: &corev3.GrpcService_EnvoyGrpc{ClusterName: agentCluster},
		}},
		BufferFlushInterval: dur(logFlush),
		BufferSizeBytes:     u32(logBuffer),
	}
}

func logTypes(types ...accesslogdatav3.AccessLogType) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_LogTypeFilter{
		LogTypeFilter: &accesslogv3.LogTypeFilter{Types: types},
	}}
}

func lasted(op accesslogv3.ComparisonFilter_Op, d time.Duration) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_DurationFilter{
		DurationFilter: &accesslogv3.DurationFilter{Comparison: &accesslogv3.ComparisonFilter{
			Op: op, Value: &corev3.RuntimeUInt32{DefaultValue: uint32(d.Milliseconds()), RuntimeKey: "kerege.unused"},
		}},
	}}
}

// sampled lets a share through, in millionths.
func sampled(share uint32) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_RuntimeFilter{
		RuntimeFilter: &accesslogv3.RuntimeFilter{
			RuntimeKey:               "kerege.unused",
			PercentSampled:           &typev3.FractionalPercent{Numerator: share, Denominator: typev3.FractionalPercent_MILLION},
			UseIndependentRandomness: true,
		},
	}}
}

func allLogs(list ...*accesslogv3.AccessLogFilter) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_AndFilter{AndFilter: &accesslogv3.AndFilter{Filters: list}}}
}

func anyLog(list ...*accesslogv3.AccessLogFilter) *accesslogv3.AccessLogFilter {
	return &accesslogv3.AccessLogFilter{FilterSpecifier: &accesslogv3.AccessLogFilter_OrFilter{OrFilter: &accesslogv3.OrFilter{Filters: list}}}
}
