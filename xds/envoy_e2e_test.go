//go:build e2e

package xds

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"net"
	"net/netip"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	discoveryv3 "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	secretv3 "github.com/envoyproxy/go-control-plane/envoy/service/secret/v3"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/kerege/kerege/agent/envoy"
	"github.com/kerege/kerege/e2e/parts"
	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/plan"
	"github.com/kerege/kerege/xds/delta"
)

// testCA signs what the agents would serve.
type testCA struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pem  []byte
	n    int64
}

func newTestCA(t *testing.T) *testCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "root"}, NotBefore: time.Now().Add(-time.Minute),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, _ := x509.ParseCertificate(der)
	return &testCA{key: key, cert: cert, pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), n: 1}
}

func (ca *testCA) issue(t *testing.T, id string) (cert, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	ca.n++
	u, _ := url.Parse(id)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(ca.n), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour), URIs: []*url.URL{u},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}, ca.cert, &k.PublicKey, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	kd, _ := x509.MarshalECPrivateKey(k)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: kd})
}

// control is one Envoy's agent and control plane, written for this test alone.
type control struct {
	discoveryv3.UnimplementedAggregatedDiscoveryServiceServer
	secretv3.UnimplementedSecretDiscoveryServiceServer

	mu      sync.Mutex
	want    map[string]map[string]*delta.Resource
	changed chan struct{}
	nacks   []string
	secrets map[string]*anypb.Any
}

func (c *control) set(s *delta.Set) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.want = map[string]map[string]*delta.Resource{}
	for _, g := range s.Groups {
		for _, r := range g.Resources {
			if c.want[r.Type] == nil {
				c.want[r.Type] = map[string]*delta.Resource{}
			}
			c.want[r.Type][r.Name] = r
		}
	}
	close(c.changed)
	c.changed = make(chan struct{})
}

// deltaStream is what either service gives.
type deltaStream interface {
	Send(*discoveryv3.DeltaDiscoveryResponse) error
	Recv() (*discoveryv3.DeltaDiscoveryRequest, error)
}

func (c *control) DeltaAggregatedResources(s discoveryv3.AggregatedDiscoveryService_DeltaAggregatedResourcesServer) error {
	requests := make(chan *discoveryv3.DeltaDiscoveryRequest)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		for {
			r, err := s.Recv()
			if err != nil {
				return
			}
			select {
			case requests <- r:
			case <-s.Context().Done():
				return
			}
		}
	}()
	subscribed := map[string]map[string]bool{}
	sent := map[string]map[string]string{}
	answered := map[string]bool{}
	for {
		c.mu.Lock()
		changed, want := c.changed, c.want
		c.mu.Unlock()
		for _, kind := range []string{delta.TypeSecret, delta.TypeCluster, delta.TypeEndpoints, delta.TypeListener, delta.TypeRoute, delta.TypeExtension} {
			if subscribed[kind] == nil {
				continue
			}
			res := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: kind, Nonce: fmt.Sprint(time.Now().UnixNano())}
			for name, r := range want[kind] {
				if (subscribed[kind]["*"] || subscribed[kind][name]) && sent[kind][name] != r.Version {
					res.Resources = append(res.Resources, &discoveryv3.Resource{Name: name, Version: r.Version, Resource: r.Body})
					sent[kind][name] = r.Version
					if kind == delta.TypeCluster && sent[delta.TypeEndpoints] != nil {
						delete(sent[delta.TypeEndpoints], name)
					}
				}
			}
			for name := range sent[kind] {
				if want[kind][name] == nil {
					res.RemovedResources = append(res.RemovedResources, name)
					delete(sent[kind], name)
				}
			}
			first := subscribed[kind]["*"] && !answered[kind]
			if first || len(res.Resources)+len(res.RemovedResources) > 0 {
				answered[kind] = true // also with nothing: Envoy waits for its first clusters and listeners
				if err := s.Send(res); err != nil {
					return err
				}
			}
		}
		select {
		case <-gone:
			return nil
		case <-s.Context().Done():
			return nil
		case <-changed:
		case r := <-requests:
			if r.ErrorDetail != nil {
				c.mu.Lock()
				c.nacks = append(c.nacks, r.TypeUrl+": "+r.ErrorDetail.Message)
				c.mu.Unlock()
			}
			if subscribed[r.TypeUrl] == nil {
				subscribed[r.TypeUrl], sent[r.TypeUrl] = map[string]bool{}, map[string]string{}
				if len(r.ResourceNamesSubscribe) == 0 {
					subscribed[r.TypeUrl]["*"] = true
				}
			}
			for _, n := range r.ResourceNamesSubscribe {
				subscribed[r.TypeUrl][n] = true
				delete(sent[r.TypeUrl], n)
			}
			for _, n := range r.ResourceNamesUnsubscribe {
				delete(subscribed[r.TypeUrl], n)
			}
		}
	}
}

func (c *control) DeltaSecrets(s secretv3.SecretDiscoveryService_DeltaSecretsServer) error {
	for {
		r, err := s.Recv()
		if err != nil {
			return nil
		}
		if r.ErrorDetail != nil {
			c.mu.Lock()
			c.nacks = append(c.nacks, r.TypeUrl+": "+r.ErrorDetail.Message)
			c.mu.Unlock()
		}
		res := &discoveryv3.DeltaDiscoveryResponse{TypeUrl: delta.TypeSecret, Nonce: "1"}
		for _, n := range r.ResourceNamesSubscribe {
			res.Resources = append(res.Resources, &discoveryv3.Resource{Name: n, Version: "1", Resource: c.secrets[n]})
		}
		if len(res.Resources) > 0 {
			if err := s.Send(res); err != nil {
				return err
			}
		}
	}
}

func inline(b []byte) *corev3.DataSource {
	return &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: b}}
}

// lockedLog is what an Envoy says, readable while it says it.
type lockedLog struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lockedLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

func (l *lockedLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// runningEnvoy is a real Envoy with a control of its own.
type runningEnvoy struct {
	*control
	admin *envoy.Admin
	tr    *Translator
	log   *lockedLog
}

func startEnvoy(t *testing.T, ca *testCA, p *plan.Proxy) *runningEnvoy {
	return startEnvoyAs(t, ca, p, 0)
}

// startEnvoyAs runs it as another user, whom rules of capture can name.
func startEnvoyAs(t *testing.T, ca *testCA, p *plan.Proxy, uid uint32) *runningEnvoy {
	t.Helper()
	dir, err := os.MkdirTemp("", "krx")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	cert, key := ca.issue(t, p.Identity.String())
	w := &writer{}
	c := &control{changed: make(chan struct{}), secrets: map[string]*anypb.Any{
		"identity": w.any(&tlsv3.Secret{Name: "identity", Type: &tlsv3.Secret_TlsCertificate{TlsCertificate: &tlsv3.TlsCertificate{CertificateChain: inline(cert), PrivateKey: inline(key)}}}),
		"bundle":   w.any(&tlsv3.Secret{Name: "bundle", Type: &tlsv3.Secret_ValidationContext{ValidationContext: &tlsv3.CertificateValidationContext{TrustedCa: inline(ca.pem)}}}),
	}}
	listen, err := net.Listen("unix", envoy.XDSSocket(dir))
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	discoveryv3.RegisterAggregatedDiscoveryServiceServer(server, c)
	secretv3.RegisterSecretDiscoveryServiceServer(server, c)
	go server.Serve(listen)
	t.Cleanup(server.Stop)

	boot, err := envoy.Bootstrap(envoy.Config{ID: p.Node.ID, Dir: dir, InboundPort: p.Node.InboundPort, OutboundPort: p.Node.OutboundPort,
		Limits: envoy.Limits{Heap: 1 << 30, Connections: 1000}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dir+"/b.json", boot, 0o600); err != nil {
		t.Fatal(err)
	}
	e := &runningEnvoy{control: c, admin: envoy.NewAdmin(envoy.AdminSocket(dir)), tr: NewTranslator(), log: &lockedLog{}}
	e.apply(t, p)
	args := []string{parts.Path(t, "envoy"), "-c", dir + "/b.json", "--disable-hot-restart", "--concurrency", "1", "--file-flush-interval-msec", "100", "--log-level", "warning"}
	if level := os.Getenv("ENVOY_LOG"); level != "" {
		args[len(args)-1] = level
	}
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stderr = e.log
	if uid != 0 {
		for _, path := range []string{dir, dir + "/b.json", envoy.XDSSocket(dir)} {
			if err := os.Chown(path, int(uid), int(uid)); err != nil {
				t.Fatal(err)
			}
		}
		cmd.Args = append([]string{"setpriv", "--reuid", fmt.Sprint(uid), "--regid", fmt.Sprint(uid), "--clear-groups"}, args...)
		cmd.Path, err = exec.LookPath("setpriv")
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Logf("Envoy of %s said:\n%s", p.Node.ID.Service, e.log)
		}
	})
	eventually(t, 15*time.Second, func() error { return e.admin.Ready(context.Background()) })
	return e
}

func (e *runningEnvoy) apply(t *testing.T, p *plan.Proxy) {
	t.Helper()
	set, err := e.tr.Translate(p)
	if err != nil {
		t.Fatal(err)
	}
	e.set(set)
}

// clean checks that Envoy took everything it was sent, and nothing outdated.
func (e *runningEnvoy) clean(t *testing.T) {
	t.Helper()
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, n := range e.nacks {
		t.Errorf("NACK: %s", n)
	}
	stats, err := e.admin.Stats(context.Background(), `update_rejected|deprecated_feature_use|wip_protos|unknown_fields|config_fail|init_fetch_timeout`)
	if err != nil {
		t.Fatal(err)
	}
	if len(stats) == 0 {
		t.Error("no statistics to judge by")
	}
	for name, n := range stats {
		if n != 0 {
			t.Errorf("%s = %d", name, n)
		}
	}
}

func eventually(t *testing.T, within time.Duration, f func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(within); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if err = f(); err == nil {
			return
		}
	}
	t.Fatalf("not within %v: %v", within, err)
}

// freePorts returns loopback ports that nobody listens on.
func freePorts(t *testing.T, n int) []uint16 {
	t.Helper()
	var out []uint16
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		out = append(out, uint16(l.Addr().(*net.TCPAddr).Port))
	}
	return out
}

func local(port uint16) netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)
}

// destination is a service's proxy whose port arrives at listen and whose
// application is at app.
func destination(ca *testCA, in *plan.Inbound, app uint16) *plan.Proxy {
	in.Policy.Bundle = ca.pem
	return &plan.Proxy{
		Node:     plan.Node{ID: mesh.ProxyID{Service: in.Service, Node: "n1"}, Accept: []plan.Accept{{Listen: local(in.Number), App: local(app)}}},
		Identity: testIdentity(string(in.Service)),
		Inbound:  []*plan.Inbound{in},
		Outside:  plan.Outside{Mode: mesh.OutboundRegistered, Caller: in.Service},
	}
}

// caller is a service's proxy that reaches each upstream at the loopback port beside it.
func caller(name string, at map[uint16]*plan.Upstream) *plan.Proxy {
	p := &plan.Proxy{
		Node:     plan.Node{ID: mesh.ProxyID{Service: mesh.ServiceName(name), Node: "n2"}},
		Identity: testIdentity(name),
		Outside:  plan.Outside{Mode: mesh.OutboundRegistered, Caller: mesh.ServiceName(name)},
	}
	for _, port := range sortedKeys(maps.Clone(at)) {
		u := at[port]
		p.Outbound = append(p.Outbound, u)
		p.Node.Explicit = append(p.Node.Explicit, plan.Explicit{Service: u.Service, Port: u.Ports[0].Number, LocalPort: port})
	}
	return p
}
