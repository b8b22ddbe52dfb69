package cut

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	accesslogdatav3 "github.com/envoyproxy/go-control-plane/envoy/data/accesslog/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	accesslogv3 "github.com/envoyproxy/go-control-plane/envoy/service/accesslog/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/policy"
)

// checkRoute begins the names of the routes of a host's checks, which need no right.
const checkRoute = "check["

// prefix of the names of the secrets that have the rules, and of the logs.
const prefix = "open:"

const secretType = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"

// Shown takes in the resources of a proxy, each when its Envoy may come to see it;
// a nil body is one that is gone. Only rules are kept. It never waits.
func (p *Proxy) Shown(typ, name string, body []byte) {
	if typ != secretType || !strings.HasPrefix(name, prefix) {
		return
	}
	var rules policy.Rules
	var err error
	if body != nil {
		var s tlsv3.Secret
		if err = proto.Unmarshal(body, &s); err == nil {
			rules, err = policy.ReadRules(s.GetGenericSecret().GetSecret().GetInlineBytes())
		}
	}
	p.rulesMu.Lock()
	if body == nil || err != nil {
		delete(p.rules, name)
	} else {
		p.rules[name] = rules
	}
	p.rulesMu.Unlock()
	if err != nil {
		p.log.Error("open connections are not cut: their rules cannot be read", "proxy", p.cfg.ID, "rules", name, "error", err)
	}
	select {
	case p.poked <- struct{}{}:
	default:
	}
}

// Register adds the access log service of this proxy to the gRPC server on its socket.
func (p *Proxy) Register(g grpc.ServiceRegistrar) {
	accesslogv3.RegisterAccessLogServiceServer(g, &logs{proxy: p})
}

type logs struct {
	accesslogv3.UnimplementedAccessLogServiceServer
	proxy *Proxy
}

// StreamAccessLogs reads one log of one Envoy. It never answers.
func (l *logs) StreamAccessLogs(g accesslogv3.AccessLogService_StreamAccessLogsServer) error {
	p := l.proxy
	p.readers.Add(1)
	defer p.readers.Done()
	var rules string
	for {
		m, err := g.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if id := m.GetIdentifier(); id != nil {
			if who := id.GetNode().GetId(); who != p.cfg.ID {
				p.mu.Lock()
				p.once(fmt.Errorf("it says it is %.200q", who), "a stranger's log on a proxy's socket is refused")
				p.mu.Unlock()
				return status.Errorf(codes.PermissionDenied, "this socket belongs to the proxy %q; a node that says it is %.200q is not heard here", p.cfg.ID, who)
			}
			rules = id.GetLogName()
		}
		if strings.HasPrefix(rules, prefix) {
			p.take(events(rules, m))
		}
	}
}

// events are what a message says, without what it says in vain.
func events(rules string, m *accesslogv3.StreamAccessLogsMessage) []event {
	var out []event
	for _, e := range m.GetTcpLogs().GetLogEntry() {
		if v, ok := common(rules, e.GetCommonProperties()); ok {
			out = append(out, v)
		}
	}
	for _, e := range m.GetHttpLogs().GetLogEntry() {
		v, ok := common(rules, e.GetCommonProperties())
		if !ok {
			continue
		}
		if strings.HasPrefix(e.GetCommonProperties().GetRouteName(), checkRoute) {
			continue // no intention is about it
		}
		method := e.GetRequest().GetRequestHeaders()[":method"]
		if method == "" {
			method = e.GetRequest().GetRequestMethod().String()
		}
		v.http, v.call = true, call{v.began.UnixNano(), method, e.GetRequest().GetPath()}
		out = append(out, v)
	}
	return out
}

func common(rules string, c *accesslogdatav3.AccessLogCommon) (event, bool) {
	peer, to := socketOf(c.GetDownstreamDirectRemoteAddress()), socketOf(c.GetDownstreamLocalAddress())
	e := event{place: place{peer, to}, rules: rules, began: c.GetStartTime().AsTime()}
	for _, san := range c.GetTlsProperties().GetPeerCertificateProperties().GetSubjectAltName() {
		if e.uri == "" {
			e.uri = san.GetUri()
		}
	}
	if mark, ok := strings.CutPrefix(c.GetTlsProperties().GetPeerCertificateProperties().GetSubject(), "CN="); ok && mesh.IsMark(mark) {
		e.mark = mark
	}
	switch c.GetAccessLogType() {
	case accesslogdatav3.AccessLogType_TcpConnectionEnd, accesslogdatav3.AccessLogType_DownstreamEnd:
		e.over = true
	}
	return e, peer.IsValid() && to.IsValid()
}

func socketOf(a *corev3.Address) netip.AddrPort {
	s := a.GetSocketAddress()
	addr, err := netip.ParseAddr(s.GetAddress())
	if err != nil || s.GetPortValue() > 65535 {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(addr.Unmap(), uint16(s.GetPortValue()))
}
