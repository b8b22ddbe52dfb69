package sds

import (
	"bytes"
	"context"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secret "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"github.com/hashicorp/go-hclog"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
)

// secrets is a source that a test changes.
type secrets struct {
	mu                 sync.Mutex
	chain, key, bundle string
	changed            chan struct{}
}

func (s *secrets) Secrets() (chain, key, bundle []byte, changed <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return []byte(s.chain), []byte(s.key), []byte(s.bundle), s.changed
}

func (s *secrets) set(chain, key, bundle string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.chain, s.key, s.bundle = chain, key, bundle
	close(s.changed)
	s.changed = make(chan struct{})
}

const canary = "KEY-CANARY"

type rig struct {
	t      *testing.T
	source *secrets
	log    *lockedBuffer
	client secret.SecretDiscoveryServiceClient
	node   *corev3.Node
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func newRig(t *testing.T) *rig {
	t.Helper()
	r := &rig{t: t, source: &secrets{changed: make(chan struct{})}, log: &lockedBuffer{}, node: &corev3.Node{Id: "web/vm-1"}}
	wire := bufconn.Listen(1 << 20)
	s := New("web/vm-1", r.source, hclog.New(&hclog.LoggerOptions{Output: r.log}))
	g := grpc.NewServer()
	s.Register(g)
	var served sync.WaitGroup
	served.Go(func() { g.Serve(wire) })
	conn, err := grpc.NewClient("passthrough:///x", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return wire.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	r.client = secret.NewSecretDiscoveryServiceClient(conn)
	t.Cleanup(func() {
		conn.Close()
		g.Stop()
		served.Wait()
		s.Wait()
		if strings.Contains(r.log.String(), canary) {
			t.Error("a log shows a key")
		}
	})
	return r
}

type deltaClient struct {
	secret.SecretDiscoveryService_DeltaSecretsClient
	t *testing.T
}

func (r *rig) delta(first *discovery.DeltaDiscoveryRequest) deltaClient {
	r.t.Helper()
	c, err := r.client.DeltaSecrets(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	if first.Node == nil {
		first.Node = r.node
	}
	first.TypeUrl = secretType
	if err := c.Send(first); err != nil {
		r.t.Fatal(err)
	}
	return deltaClient{c, r.t}
}

// next reads a message: its resources' names and versions, and acknowledges it.
func (c deltaClient) next() (names []string, m *discovery.DeltaDiscoveryResponse) {
	c.t.Helper()
	m, err := c.Recv()
	if err != nil {
		c.t.Fatal(err)
	}
	for _, r := range m.GetResources() {
		names = append(names, r.GetName())
	}
	if err := c.Send(&discovery.DeltaDiscoveryRequest{TypeUrl: secretType, ResponseNonce: m.GetNonce()}); err != nil {
		c.t.Fatal(err)
	}
	return names, m
}

func tlsSecret(t *testing.T, r *discovery.Resource) *tlsv3.Secret {
	t.Helper()
	s := &tlsv3.Secret{}
	if err := r.GetResource().UnmarshalTo(s); err != nil {
		t.Fatal(err)
	}
	if err := s.ValidateAll(); err != nil {
		t.Error(err)
	}
	return s
}

func TestSecretsComeWhenThereAreAndWhenTheyChange(t *testing.T) {
	r := newRig(t)
	own := r.delta(&discovery.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{Identity}})
	roots := r.delta(&discovery.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{Bundle}})
	quiet := make(chan *discovery.DeltaDiscoveryResponse, 1)
	go func() {
		m, err := own.Recv()
		if err == nil {
			quiet <- m
		}
	}()
	select {
	case m := <-quiet:
		t.Fatalf("an answer before there is an identity: %v", m)
	case <-time.After(50 * time.Millisecond):
	}
	r.source.set("chain-1", canary, "roots-1")
	m := <-quiet
	if len(m.GetResources()) != 1 {
		t.Fatalf("%v", m)
	}
	s := tlsSecret(t, m.GetResources()[0])
	if string(s.GetTlsCertificate().GetCertificateChain().GetInlineBytes()) != "chain-1" || string(s.GetTlsCertificate().GetPrivateKey().GetInlineBytes()) != canary || s.GetName() != Identity {
		t.Errorf("%v", s)
	}
	if names, m := roots.next(); !slices.Equal(names, []string{Bundle}) || string(tlsSecret(t, m.GetResources()[0]).GetValidationContext().GetTrustedCa().GetInlineBytes()) != "roots-1" {
		t.Errorf("%v", names)
	}

	both := r.delta(&discovery.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{Bundle, Identity}})
	if names, _ := both.next(); !slices.Equal(names, []string{Identity, Bundle}) {
		t.Errorf("%v", names)
	}
	r.source.set("chain-2", canary+"2", "roots-1")
	if names, m := both.next(); !slices.Equal(names, []string{Identity}) || string(tlsSecret(t, m.GetResources()[0]).GetTlsCertificate().GetPrivateKey().GetInlineBytes()) != canary+"2" {
		t.Errorf("a rotation of the certificate sends %v", names)
	}
	r.source.set("chain-2", canary+"2", "roots-2")
	if names, _ := both.next(); !slices.Equal(names, []string{Bundle}) {
		t.Errorf("a new bundle sends %v", names)
	}
	if names, _ := roots.next(); !slices.Equal(names, []string{Bundle}) {
		t.Errorf("the rotation before reached the stream of the bundle: %v", names)
	}
}

func TestTheProtocol(t *testing.T) {
	r := newRig(t)
	r.source.set("chain-1", canary, "roots-1")
	c := r.delta(&discovery.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{Identity, Bundle}})
	_, m := c.next()
	versions := map[string]string{}
	for _, x := range m.GetResources() {
		versions[x.GetName()] = x.GetVersion()
	}
	// Asked for again: sent again. Unsubscribed: not sent.
	c.Send(&discovery.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{Bundle}, ResourceNamesUnsubscribe: []string{Identity}})
	if names, _ := c.next(); !slices.Equal(names, []string{Bundle}) {
		t.Errorf("%v", names)
	}
	r.source.set("chain-2", canary, "roots-1")
	r.source.set("chain-2", canary, "roots-2")
	if names, _ := c.next(); !slices.Equal(names, []string{Bundle}) {
		t.Errorf("what is not subscribed is sent: %v", names)
	}
	// A client that comes back and holds the bundle gets what is new only.
	versions[Bundle] = bundleVersion(t, "roots-2")
	again := r.delta(&discovery.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{Identity, Bundle}, InitialResourceVersions: versions})
	if names, _ := again.next(); !slices.Equal(names, []string{Identity}) {
		t.Errorf("after a reconnect: %v", names)
	}
	// A refusal is logged and not answered with the same again.
	again.Send(&discovery.DeltaDiscoveryRequest{ResponseNonce: "1", ErrorDetail: &rpcstatus.Status{Code: 3, Message: "bad certificate"}})
	for end := time.Now().Add(10 * time.Second); !strings.Contains(r.log.String(), "bad certificate"); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("a refusal is not logged")
		}
	}
	r.source.set("chain-3", canary, "roots-2")
	if names, _ := again.next(); !slices.Equal(names, []string{Identity}) {
		t.Errorf("the refused secret is sent again: %v", names)
	}
}

func bundleVersion(t *testing.T, pem string) string {
	t.Helper()
	x, err := pack(Bundle, []byte(pem), &tlsv3.Secret{})
	if err != nil {
		t.Fatal(err)
	}
	return x.version
}

func TestNobodyElsesSecrets(t *testing.T) {
	r := newRig(t)
	r.source.set("chain-1", canary, "roots-1")
	others := []string{"identity/api", "api", "../identity", "IDENTITY", "", "*", "callers:web:80"}
	c := r.delta(&discovery.DeltaDiscoveryRequest{ResourceNamesSubscribe: others})
	names, m := c.next()
	if len(names) != 0 || len(m.GetRemovedResources()) != len(others) {
		t.Errorf("%v", m)
	}
	if n := strings.Count(r.log.String(), "audit: a secret that is not the proxy's"); n != len(others) {
		t.Errorf("%d audit lines", n)
	}
	ended := func(what string, err error, code codes.Code) {
		t.Helper()
		if status.Code(err) != code {
			t.Errorf("%s: %v", what, err)
		}
	}
	for _, id := range []string{"", "api/vm-1", "web/vm-2", "web/vm-1/a"} {
		_, err := r.delta(&discovery.DeltaDiscoveryRequest{Node: &corev3.Node{Id: id}, ResourceNamesSubscribe: []string{Identity}}).Recv()
		ended("node "+id, err, codes.PermissionDenied)
	}
	s, err := r.client.DeltaSecrets(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s.Send(&discovery.DeltaDiscoveryRequest{Node: r.node, TypeUrl: "type.googleapis.com/envoy.config.cluster.v3.Cluster"})
	_, err = s.Recv()
	ended("another type", err, codes.PermissionDenied)
	// A node that changes its name half way.
	c = r.delta(&discovery.DeltaDiscoveryRequest{ResourceNamesSubscribe: []string{Identity}})
	c.next()
	c.Send(&discovery.DeltaDiscoveryRequest{Node: &corev3.Node{Id: "api/vm-1"}, ResourceNamesSubscribe: []string{Bundle}})
	_, err = c.Recv()
	ended("another node on the same stream", err, codes.PermissionDenied)
	c = r.delta(&discovery.DeltaDiscoveryRequest{ResourceNamesSubscribe: make([]string, maxNames+1)})
	_, err = c.Recv()
	ended("too many names", err, codes.InvalidArgument)
}

func TestWholeStates(t *testing.T) {
	r := newRig(t)
	r.source.set("chain-1", canary, "roots-1")
	c, err := r.client.StreamSecrets(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ask := func(node *corev3.Node, nonce, version string, names ...string) {
		c.Send(&discovery.DiscoveryRequest{Node: node, TypeUrl: secretType, ResourceNames: names, ResponseNonce: nonce, VersionInfo: version})
	}
	ask(r.node, "", "", Identity)
	m, err := c.Recv()
	if err != nil || len(m.GetResources()) != 1 {
		t.Fatal(m, err)
	}
	ask(nil, m.GetNonce(), m.GetVersionInfo(), Identity)
	ask(nil, m.GetNonce(), m.GetVersionInfo(), Identity, Bundle)
	if m, err = c.Recv(); err != nil || len(m.GetResources()) != 2 {
		t.Fatal(m, err)
	}
	r.source.set("chain-2", canary, "roots-1")
	if m, err = c.Recv(); err != nil || len(m.GetResources()) != 2 || !bytes.Contains(m.GetResources()[0].GetValue(), []byte("chain-2")) {
		t.Fatal(m, err)
	}
	ask(nil, m.GetNonce(), m.GetVersionInfo(), Identity, "api")
	if _, err = c.Recv(); status.Code(err) != codes.PermissionDenied {
		t.Error(err)
	}
}
