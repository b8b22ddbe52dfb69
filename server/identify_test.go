package server

import (
	"context"
	"crypto/tls"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/structpb"

	keregev1 "github.com/kerege/kerege/api/kerege/v1"
	"github.com/kerege/kerege/e2e/xdsim"
	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/plan"
)

// envoy opens a proxy's stream over a connection.
func (r *rig) envoy(conn *grpc.ClientConn, id, metadata string, mode xdsim.Mode) *xdsim.Client {
	r.t.Helper()
	node := &corev3.Node{Id: id, UserAgentName: "envoy"}
	if metadata != "" {
		node.Metadata = &structpb.Struct{}
		noError(r.t, node.Metadata.UnmarshalJSON([]byte(metadata)))
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	c, err := xdsim.Open(ctx, conn, node, mode, nil)
	noError(r.t, err)
	r.t.Cleanup(func() { c.Close(); cancel() })
	return c
}

const capture = `{"kerege":{"inbound_port":15006,"outbound_port":15001}}`

// waitFor waits until an Envoy holds a resource of a type.
func (r *rig) waitFor(c *xdsim.Client, typ, name string) {
	r.t.Helper()
	err := c.Wait(r.t.Context(), typ, func(held map[string]string) bool { return held[name] != "" })
	if err != nil {
		r.t.Fatalf("%s: %v\n%s", name, err, r.log)
	}
}

// A node gets the proxies of its own services, and no certificate, name or
// claim gets it another's.
func TestWhichProxiesANodeMayServe(t *testing.T) {
	r := newRig(t).start()
	vm1 := r.nodeCert("vm-1")
	r.waitFor(r.envoy(r.dial(vm1), "web/vm-1", capture, xdsim.Mode{}), xdsim.Cluster, "api:8080")

	service := r.holder(mesh.ServiceIdentity("test.example", "web"))
	server := r.holder(mesh.Identity{TrustDomain: "test.example", Kind: mesh.KindServerIdentity, Name: "s1"})
	for what, c := range map[string]struct {
		cert *tls.Certificate
		id   string
		code codes.Code
		says string
	}{
		"another node's proxy":               {vm1, "api/vm-2", codes.PermissionDenied, "no business with a proxy of node"},
		"a service that is not placed there": {vm1, "api/vm-1", codes.PermissionDenied, "no registry places service api on node vm-1"},
		"a service that nobody knows":        {vm1, "bank/vm-1", codes.PermissionDenied, "no registry places service bank"},
		"a workload that is not there":       {vm1, "web/vm-1/alloc-1", codes.PermissionDenied, "no registry places service web"},
		"a node that no registry knows":      {r.nodeCert("vm-9"), "web/vm-9", codes.PermissionDenied, "no registry places service web on node vm-9"},
		"an id without a node":               {vm1, "web", codes.InvalidArgument, "SERVICE/NODE"},
		"an id with a path":                  {vm1, "web/../vm-1", codes.InvalidArgument, "node id"},
		"an id with a control character":     {vm1, "web\x1b[2J/vm-1", codes.InvalidArgument, "node id"},
		"an id of another case":              {vm1, "WEB/vm-1", codes.InvalidArgument, "node id"},
		"a long id":                          {vm1, strings.Repeat("w", 5000) + "/vm-1", codes.InvalidArgument, "node id"},
		"no id":                              {vm1, "", codes.InvalidArgument, "node.id"},
		"a service's own certificate":        {service, "web/vm-1", codes.PermissionDenied, "is no node"},
		"a server's certificate":             {server, "web/vm-1", codes.PermissionDenied, "is no node"},
		"no certificate":                     {nil, "web/vm-1", codes.Unauthenticated, "kerege join"},
	} {
		c1 := r.envoy(r.dial(c.cert), c.id, capture, xdsim.Mode{})
		select {
		case <-c1.Done():
			refused(t, c1.Err(), c.code, c.says)
		case <-time.After(5 * time.Second):
			t.Fatalf("%s: the stream is open", what)
		}
		if n := c1.Messages(); n != 0 {
			t.Errorf("%s was sent %d messages", what, n)
		}
		if err := c1.Err(); err != nil && (strings.Contains(err.Error(), "\x1b") || len(err.Error()) > 600) {
			t.Errorf("%s: hostile text comes back: %.100q", what, err)
		}
	}
	if n := strings.Count(r.log.String(), "refused: a node asked for"); n < 4 {
		t.Errorf("%d audit lines of refusals", n)
	}
	if got := r.s.planner.nodes(); len(got) != 1 {
		t.Errorf("%d proxies are planned for", len(got))
	}

	noError(t, r.s.tokens.Ban("vm-1", "stolen"))
	c := r.envoy(r.dial(vm1), "web/vm-1", capture, xdsim.Mode{})
	<-c.Done()
	refused(t, c.Err(), codes.PermissionDenied, "banned")
}

// The certificate of another mesh's CA is worth nothing, whatever it says.
func TestAnotherMeshsNodes(t *testing.T) {
	r, other := newRig(t).start(), newRig(t).start()
	_, csr := newRequest(t)
	for what, cert := range map[string]*tls.Certificate{"node": other.nodeCert("vm-1"), "server": other.holder(mesh.Identity{TrustDomain: "test.example", Kind: mesh.KindServerIdentity, Name: "s1"})} {
		conn := r.dial(cert)
		if _, err := keregev1.NewSignClient(conn).Sign(t.Context(), &keregev1.SignRequest{Service: "web", Csr: csr}); err == nil {
			t.Errorf("a %s of another mesh gets a certificate", what)
		}
		if c, err := xdsim.Open(t.Context(), conn, &corev3.Node{Id: "web/vm-1"}, xdsim.Mode{}, nil); err == nil {
			<-c.Done()
			if c.Messages() != 0 || c.Err() == nil {
				t.Errorf("a %s of another mesh: %d messages, %v", what, c.Messages(), c.Err())
			}
			c.Close()
		}
	}
}

// What a proxy says of its ports decides what it gets; nonsense gets it nothing more.
func TestIntroductions(t *testing.T) {
	id := mesh.ProxyID{Service: "web", Node: "vm-1"}
	n, err := introduced(id, map[string]any{"kerege": map[string]any{
		"inbound_port": 15006.0, "outbound_port": 15001.0, "no_ipv6": true, "bridge": []any{"172.26.64.1"},
		"explicit": []any{map[string]any{"service": "api", "port": 8080.0, "local_port": 9001.0}},
		"accept":   []any{map[string]any{"listen": "127.0.0.1:80", "app": "127.0.0.1:8080"}},
	}})
	noError(t, err)
	if n.ID != id || n.InboundPort != 15006 || n.OutboundPort != 15001 || !n.NoIPv6 || len(n.Bridge) != 1 || n.Bridge[0] != netip.MustParseAddr("172.26.64.1") || len(n.Explicit) != 1 || n.Explicit[0] != (plan.Explicit{Service: "api", Port: 8080, LocalPort: 9001}) ||
		len(n.Accept) != 1 || n.Accept[0].Listen.Port() != 80 || n.Accept[0].App.Port() != 8080 {
		t.Errorf("%+v", n)
	}
	if n, err := introduced(id, nil); err != nil || n.ID != id || n.InboundPort != 0 {
		t.Errorf("no metadata: %+v %v", n, err)
	}
	for _, bad := range []map[string]any{
		{"kerege": "text"}, {"kerege": map[string]any{"inbound_port": 70000.0}}, {"kerege": map[string]any{"inbound_port": -1.0}},
		{"kerege": map[string]any{"accept": []any{map[string]any{"listen": "nowhere"}}}},
	} {
		if _, err := introduced(id, bad); err == nil {
			t.Errorf("%v is taken", bad)
		}
	}
}
