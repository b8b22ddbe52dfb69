package cut

import (
	"context"
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	accesslogdatav3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/kerege/kerege/mesh"
)

func addr(host string, port uint32) *corev3.Address {
	return &corev3.Address{Address: &corev3.Address_SocketAddress{SocketAddress: &corev3.SocketAddress{
		Address: host, PortSpecifier: &corev3.SocketAddress_PortValue{PortValue: port},
	}}}
}

func said(typ accesslogdatav3.AccessLogType, port uint32) *accesslogdatav3.AccessLogCommon {
	return &accesslogdatav3.AccessLogCommon{
		AccessLogType: typ, StartTime: timestamppb.New(time.Unix(5, 7)),
		DownstreamDirectRemoteAddress: addr("10.0.0.1", port), DownstreamLocalAddress: addr("10.0.0.2", 8080),
		TlsProperties: &accesslogdatav3.TLSProperties{PeerCertificateProperties: &accesslogdatav3.TLSProperties_CertificateProperties{
			SubjectAltName: []*accesslogdatav3.TLSProperties_CertificateProperties_SubjectAltName{{
				San: &accesslogdatav3.TLSProperties_CertificateProperties_SubjectAltName_Uri{Uri: "spiffe://test.example/svc/web"},
			}},
			Subject: "CN=" + testMark,
		}},
	}
}

func tcp(list ...*accesslogdatav3.AccessLogCommon) *accesslogv3.StreamAccessLogsMessage {
	logs := &accesslogv3.StreamAccessLogsMessage_TCPAccessLogEntries{}
	for _, c := range list {
		logs.LogEntry = append(logs.LogEntry, &accesslogdatav3.TCPAccessLogEntry{CommonProperties: c})
	}
	return &accesslogv3.StreamAccessLogsMessage{LogEntries: &accesslogv3.StreamAccessLogsMessage_TcpLogs{TcpLogs: logs}}
}

func identified(m *accesslogv3.StreamAccessLogsMessage, node, log string) *accesslogv3.StreamAccessLogsMessage {
	m.Identifier = &accesslogv3.StreamAccessLogsMessage_Identifier{Node: &corev3.Node{Id: node}, LogName: log}
	return m
}

var testMark = mesh.Mark("vm-9", time.Unix(1, 0))

// serve opens a proxy's service; the stream ends with the test.
func serve(t *testing.T, p *Proxy) accesslogv3.AccessLogService_StreamAccessLogsClient {
	l := bufconn.Listen(1 << 16)
	g := grpc.NewServer()
	p.Register(g)
	go g.Serve(l)
	c, err := grpc.NewClient("passthrough:///x", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); g.Stop(); p.Wait() })
	s, err := accesslogv3.NewAccessLogServiceClient(c).StreamAccessLogs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestEnvoysLogIsRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _ := testProxy()
		tell(t, p, "", allow("web"))
		s := serve(t, p)
		step := func(what string, want int, m *accesslogv3.StreamAccessLogsMessage) {
			t.Helper()
			if err := s.Send(m); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if got := p.Counts().Open; got != want {
				t.Errorf("%s: %d are open, want %d", what, got, want)
			}
		}
		connected, over := accesslogdatav3.AccessLogType_TcpUpstreamConnected, accesslogdatav3.AccessLogType_TcpConnectionEnd
		step("two open", 2, identified(tcp(said(connected, 1), said(connected, 2)), "api/vm-1", testRules))
		step("told again", 2, tcp(said(accesslogdatav3.AccessLogType_TcpPeriodic, 1)))
		step("one ends", 1, tcp(said(over, 2)))
		step("without an address", 1, tcp(&accesslogdatav3.AccessLogCommon{AccessLogType: connected}))
		long := &accesslogdatav3.HTTPAccessLogEntry{
			CommonProperties: said(accesslogdatav3.AccessLogType_DownstreamPeriodic, 3),
			Request:          &accesslogdatav3.HTTPRequestProperties{Path: "/a?b", RequestMethod: corev3.RequestMethod_METHOD_UNSPECIFIED, RequestHeaders: map[string]string{":method": "PURGE"}},
		}
		http := &accesslogv3.StreamAccessLogsMessage{LogEntries: &accesslogv3.StreamAccessLogsMessage_HttpLogs{
			HttpLogs: &accesslogv3.StreamAccessLogsMessage_HTTPAccessLogEntries{LogEntry: []*accesslogdatav3.HTTPAccessLogEntry{long}},
		}}
		step("a call that runs", 2, http)
		for _, c := range p.open {
			if c.mark != testMark || c.caller.Name != "web" {
				t.Errorf("it is of %v, marked %q", c.caller, c.mark)
			}
			if c.http && !c.calls[call{time.Unix(5, 7).UnixNano(), "PURGE", "/a?b"}] {
				t.Errorf("its call is %+v", c.calls)
			}
		}
		long.CommonProperties.AccessLogType = accesslogdatav3.AccessLogType_DownstreamEnd
		step("it ends", 1, http)
		long.CommonProperties.AccessLogType, long.CommonProperties.RouteName = accesslogdatav3.AccessLogType_DownstreamPeriodic, "check[0]"
		step("a check of the host, which no intention is about", 1, http)
		step("another log's entries", 1, identified(tcp(said(connected, 7)), "api/vm-1", "other"))
	})
}

func TestAStrangersLogIsRefused(t *testing.T) {
	p, _ := testProxy()
	s := serve(t, p)
	if err := s.Send(identified(tcp(said(accesslogdatav3.AccessLogType_TcpUpstreamConnected, 1)), "other/vm-1", testRules)); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	_, err := s.CloseAndRecv()
	if status.Code(err) != codes.PermissionDenied || p.Counts().Open != 0 {
		t.Errorf("got %v, %+v", err, p.Counts())
	}
}

func TestRunJudgesWhenRulesChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, k := testProxy()
		tell(t, p, "", allow("web"))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); p.Run(ctx) }()
		p.take([]event{from(1, "web"), from(2, "web")})
		p.mu.Lock()
		for c, peer := range k.alive {
			if peer.Port() == 2 {
				delete(k.alive, c)
			}
		}
		p.mu.Unlock()
		time.Sleep(lookAgain + time.Second)
		synctest.Wait()
		if c := p.Counts(); c.Open != 1 {
			t.Errorf("after a look at the kernel: %+v", c)
		}
		p.Shown(secretType, testRules, rulesBody(""))
		synctest.Wait()
		if c := p.Counts(); c.Cut != 1 {
			t.Errorf("after the change: %+v", c)
		}
		cancel()
		<-done
	})
}
