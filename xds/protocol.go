package xds

import (
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	httpv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/upstreams/http/v3"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/kerege/kerege/mesh"
)

const (
	// A ping each pingEvery finds a dead host. Its answer may take pingAnswer: together
	// under a second, and long enough that a host that is merely starved of CPU for
	// a moment is not taken for dead, which would fail its calls.
	pingEvery  = 300 * time.Millisecond
	pingAnswer = 600 * time.Millisecond
	// poolIdle closes a caller's unused connection before the other side does.
	poolIdle = 5 * time.Minute
	// connectionIdle closes an unused connection that a caller opened.
	connectionIdle = time.Hour
)

// http2Options bounds what one HTTP/2 connection may hold, and lets WebSockets
// through (extended CONNECT).
func http2Options(ping bool) *corev3.Http2ProtocolOptions {
	if ping {
		return http2Pinging()
	}
	return http2Silent()
}

var (
	http2Silent  = constant(func(*writer) *corev3.Http2ProtocolOptions { return makeHTTP2Options(false) })
	http2Pinging = constant(func(*writer) *corev3.Http2ProtocolOptions { return makeHTTP2Options(true) })
)

func makeHTTP2Options(ping bool) *corev3.Http2ProtocolOptions {
	out := &corev3.Http2ProtocolOptions{
		MaxConcurrentStreams:        u32(100),
		InitialStreamWindowSize:     u32(64 << 10),
		InitialConnectionWindowSize: u32(1 << 20),
		AllowConnect:                true,
		// One bad message ends its own stream, not every other's on the connection.
		OverrideStreamErrorOnInvalidHttpMessage: yes(),
	}
	if ping {
		out.ConnectionKeepalive = &corev3.KeepaliveSettings{Interval: dur(pingEvery), Timeout: dur(pingAnswer)}
	}
	return out
}

// httpOptions chooses what is spoken to the instances. Between sidecars it is
// HTTP/2, whose pings find a dead host. Where some instances may be bare
// applications all of them get what the application speaks, since a cluster has
// one protocol; where nobody knows that, what the calling application spoke.
func (w *writer) httpOptions(p mesh.Protocol, sidecars bool, idle time.Duration) map[string]*anypb.Any {
	common := &corev3.HttpProtocolOptions{IdleTimeout: dur(orElse(idle, poolIdle))}
	if idle == mesh.None {
		common.IdleTimeout = dur(connectionIdle - time.Minute)
	}
	out := &httpv3.HttpProtocolOptions{CommonHttpProtocolOptions: common}
	switch {
	case sidecars, p == mesh.ProtocolHTTP2, p == mesh.ProtocolGRPC:
		out.UpstreamProtocolOptions = explicitHTTP2(true)
	case p == mesh.ProtocolHTTP:
		out.UpstreamProtocolOptions = explicitHTTP1()
	default:
		out.UpstreamProtocolOptions = asDownstream(true)
	}
	return w.protocolOptions(out)
}

// appOptions chooses what is spoken to the application itself. A connection is
// let go before the application, most likely, closes it under a request.
func (w *writer) appOptions(p mesh.Protocol) map[string]*anypb.Any {
	out := &httpv3.HttpProtocolOptions{CommonHttpProtocolOptions: &corev3.HttpProtocolOptions{IdleTimeout: dur(4 * time.Second)}}
	switch p {
	case mesh.ProtocolHTTP2, mesh.ProtocolGRPC:
		out.UpstreamProtocolOptions = explicitHTTP2(false)
	case mesh.ProtocolHTTP:
		out.UpstreamProtocolOptions = explicitHTTP1()
	default:
		out.UpstreamProtocolOptions = asDownstream(false)
	}
	return w.protocolOptions(out)
}

func (w *writer) protocolOptions(o *httpv3.HttpProtocolOptions) map[string]*anypb.Any {
	return map[string]*anypb.Any{"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": w.any(o)}
}

func explicitHTTP1() *httpv3.HttpProtocolOptions_ExplicitHttpConfig_ {
	return &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
		ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_HttpProtocolOptions{HttpProtocolOptions: &corev3.Http1ProtocolOptions{}},
	}}
}

func explicitHTTP2(ping bool) *httpv3.HttpProtocolOptions_ExplicitHttpConfig_ {
	return &httpv3.HttpProtocolOptions_ExplicitHttpConfig_{ExplicitHttpConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig{
		ProtocolConfig: &httpv3.HttpProtocolOptions_ExplicitHttpConfig_Http2ProtocolOptions{Http2ProtocolOptions: http2Options(ping)},
	}}
}

func asDownstream(ping bool) *httpv3.HttpProtocolOptions_UseDownstreamProtocolConfig {
	return &httpv3.HttpProtocolOptions_UseDownstreamProtocolConfig{UseDownstreamProtocolConfig: &httpv3.HttpProtocolOptions_UseDownstreamHttpConfig{
		HttpProtocolOptions:  &corev3.Http1ProtocolOptions{},
		Http2ProtocolOptions: http2Options(ping),
	}}
}
