//go:build e2e

package sds_test

import (
	"bufio"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/kerege/kerege/agent/identity"
	"github.com/kerege/kerege/agent/sds"
	"github.com/kerege/kerege/agent/seal"
	keregev1 "github.com/kerege/kerege/api/kerege/v1"
	"github.com/kerege/kerege/ca"
	"github.com/kerege/kerege/e2e/parts"
	"github.com/kerege/kerege/mesh"
)

// life is that of the service's certificates.
const life = 60 * time.Second

const bootstrap = `
node: {id: web/vm-1, cluster: web}
admin: {address: {pipe: {path: %[1]s/admin.sock}}}
static_resources:
  clusters:
  - name: kerege-agent
    type: STATIC
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {http2_protocol_options: {}}
    load_assignment: {cluster_name: kerege-agent, endpoints: [{lb_endpoints: [{endpoint: {address: {pipe: {path: %[1]s/xds.sock}}}}]}]}
  listeners:
  - name: inbound
    address: {socket_address: {address: 127.0.0.1, port_value: %[2]d}}
    filter_chains:
    - transport_socket:
        name: tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          require_client_certificate: true
          common_tls_context:
            tls_certificate_sds_secret_configs: [{name: identity, sds_config: &sds {resource_api_version: V3, initial_fetch_timeout: 0s, api_config_source: {api_type: %[3]s, transport_api_version: V3, set_node_on_first_message_only: true, grpc_services: [{envoy_grpc: {cluster_name: kerege-agent}}]}}}]
            combined_validation_context:
              default_validation_context: {match_typed_subject_alt_names: [{san_type: URI, matcher: {prefix: "spiffe://kerege.test/svc/"}}]}
              validation_context_sds_secret_config: {name: bundle, sds_config: *sds}
      filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          route_config: {virtual_hosts: [{name: all, domains: ["*"], routes: [{match: {prefix: /}, direct_response: {status: 200, body: {inline_string: hello}}}]}]}
          http_filters: [{name: router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]
`

// town is a CA, a node that holds the service web, and its Envoy.
type town struct {
	t       *testing.T
	dir     string
	a       *ca.Authority
	m       *identity.Manager
	address string
	web     identity.Workload
}

// Sign is the server's part, without a wire.
func (w *town) Sign(_ context.Context, r *keregev1.SignRequest, _ ...grpc.CallOption) (*keregev1.SignResponse, error) {
	id := mesh.Identity{TrustDomain: "kerege.test", Kind: mesh.KindNodeIdentity, Name: "vm-1"}
	if r.GetService() != "" {
		id = mesh.ServiceIdentity("kerege.test", mesh.ServiceName(r.GetService()))
	}
	chain, err := w.a.Sign(r.GetCsr(), id, 0)
	return &keregev1.SignResponse{Chain: chain, Bundle: w.a.Bundle()}, err
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func newTown(t *testing.T, api string) *town {
	t.Helper()
	dir, err := os.MkdirTemp("", "krid-") // short: it holds sockets
	must(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	w := &town{t: t, dir: dir, web: identity.Workload{Service: "web"}}
	w.a, err = ca.Open(filepath.Join(dir, "ca"), ca.Options{TrustDomain: "kerege.test", LeafTTL: life})
	must(t, err)
	log := hclog.New(&hclog.LoggerOptions{Output: io.Discard})
	w.m, err = identity.New(identity.Options{Dir: filepath.Join(dir, "id"), Key: seal.NewKey(), Log: log, Rand: func() float64 { return 1 }})
	must(t, err)
	w.join()
	ctx, cancel := context.WithCancel(context.Background())
	s := sds.New("web/vm-1", w.m.Source(w.web), hclog.New(&hclog.LoggerOptions{Output: os.Stderr, Level: hclog.Warn}))
	g := grpc.NewServer()
	s.Register(g)
	l, err := net.Listen("unix", dir+"/xds.sock")
	must(t, err)
	var running sync.WaitGroup
	running.Go(func() { w.m.Run(ctx, w) })
	running.Go(func() { g.Serve(l) })
	t.Cleanup(func() {
		cancel()
		g.Stop()
		running.Wait()
		s.Wait()
		w.a.Close()
	})
	w.envoy(api)
	return w
}

// join goes over a real connection, as a host does.
func (w *town) join() {
	w.t.Helper()
	tokens, err := ca.OpenTokens(w.dir+"/tokens", ca.TokenOptions{CAHash: w.a.Hash})
	must(w.t, err)
	token, _, err := tokens.Create("vm-1", ca.RoleNode, 0)
	must(w.t, err)
	desk := &joinDesk{w: w, tokens: tokens}
	address, stop := desk.serve(w.t)
	defer stop()
	must(w.t, w.m.Join(w.t.Context(), []string{address}, token.Text(), "vm-1"))
}

func (w *town) envoy(api string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(w.t, err)
	w.address = l.Addr().String()
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	file := w.dir + "/envoy.yaml"
	must(w.t, os.WriteFile(file, fmt.Appendf(nil, bootstrap, w.dir, port, api), 0o600))
	cmd := exec.Command(parts.Path(w.t, "envoy"), "-c", file, "--concurrency", "1", "--use-dynamic-base-id", "--log-level", "error")
	cmd.Stderr = os.Stderr
	must(w.t, cmd.Start())
	w.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		c, err := w.dial()
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(end) {
			w.t.Fatal(err)
		}
	}
}

// dial makes a new handshake as the service api, with a certificate of now.
func (w *town) dial() (*tls.Conn, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, err
	}
	chain, err := w.a.Sign(csr, mesh.ServiceIdentity("kerege.test", "api"), 0)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(w.a.Bundle())
	return tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", w.address, &tls.Config{
		Certificates: []tls.Certificate{{Certificate: chain, PrivateKey: key}}, InsecureSkipVerify: true,
		VerifyConnection: func(cs tls.ConnectionState) error {
			between := x509.NewCertPool()
			for _, c := range cs.PeerCertificates[1:] {
				between.AddCert(c)
			}
			_, err := cs.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: pool, Intermediates: between})
			if err == nil && cs.PeerCertificates[0].URIs[0].String() != "spiffe://kerege.test/svc/web" {
				err = fmt.Errorf("the server is %s", cs.PeerCertificates[0].URIs[0])
			}
			return err
		},
	})
}

// call sends one request on a connection and reads the answer.
func call(c *tls.Conn, r *bufio.Reader) error {
	c.SetDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: web\r\n\r\n"); err != nil {
		return err
	}
	answer, err := http.ReadResponse(r, nil)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if body, err := io.ReadAll(answer.Body); err != nil || answer.StatusCode != 200 || string(body) != "hello" {
		return fmt.Errorf("%d %q %w", answer.StatusCode, body, err)
	}
	return nil
}

// Certificates of a minute, under a connection that outlives the first of them.
func TestRotationDropsNothing(t *testing.T) {
	w := newTown(t, "DELTA_GRPC")
	begin := time.Now()
	long, err := w.dial()
	must(t, err)
	defer long.Close()
	reader := bufio.NewReader(long)
	first := long.ConnectionState().PeerCertificates[0]
	calls, handshakes := 0, 0
	seen := map[string]bool{}
	current, since := w.m.Get(w.web), time.Now()
	for time.Now().Before(first.NotAfter.Add(3 * time.Second)) {
		if err := call(long, reader); err != nil {
			t.Fatalf("after %v and %d calls the open connection failed: %v", time.Since(begin), calls, err)
		}
		calls++
		if calls%5 == 0 {
			c, err := w.dial()
			if err != nil {
				t.Fatalf("after %v a new handshake failed: %v", time.Since(begin), err)
			}
			if err := call(c, bufio.NewReader(c)); err != nil {
				t.Fatal(err)
			}
			shown := string(c.ConnectionState().PeerCertificates[0].Raw)
			c.Close()
			handshakes++
			seen[shown] = true
			if s := w.m.Get(w.web); s != current {
				current, since = s, time.Now()
			}
			if time.Since(since) > time.Second && shown != string(current.Chain[0]) {
				t.Fatal("a second after the rotation a new handshake sees the old certificate")
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Logf("%d calls on one connection, %d new handshakes, %d certificates in %v", calls, handshakes, len(seen), time.Since(begin).Round(time.Second))
	if len(seen) < 3 {
		t.Errorf("%d certificates were seen in the life of one", len(seen))
	}
	stats := w.stats()
	for _, want := range []string{"listener_manager.total_listeners_draining: 0", "listener_manager.listener_modified: 0"} {
		if !strings.Contains(stats, want) {
			t.Errorf("not %q", want)
		}
	}
	if strings.Contains(stats, "sds.identity.update_rejected: 0") == false || strings.Contains(stats, "sds.bundle.update_rejected: 0") == false {
		t.Error("Envoy refused a secret")
	}
}

// A whole-state client is served as well.
func TestEnvoyWithWholeStates(t *testing.T) {
	w := newTown(t, "GRPC")
	c, err := w.dial()
	must(t, err)
	defer c.Close()
	must(t, call(c, bufio.NewReader(c)))
}

func (w *town) stats() string {
	w.t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", w.dir+"/admin.sock")
	}}}
	answer, err := client.Get("http://envoy/stats")
	must(w.t, err)
	defer answer.Body.Close()
	text, err := io.ReadAll(answer.Body)
	must(w.t, err)
	return string(text)
}

// joinDesk is the server's side of a join.
type joinDesk struct {
	keregev1.UnimplementedJoinServer
	w      *town
	tokens *ca.Tokens
}

func (d *joinDesk) serve(t *testing.T) (address string, stop func()) {
	cert, err := d.w.a.ServerCert("s1")
	must(t, err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	g := grpc.NewServer(grpc.Creds(credentials.NewTLS(cert.GRPC())))
	keregev1.RegisterJoinServer(g, d)
	done := make(chan struct{})
	go func() { defer close(done); g.Serve(l) }()
	return l.Addr().String(), func() { g.Stop(); <-done }
}

func (d *joinDesk) Join(_ context.Context, r *keregev1.JoinRequest) (*keregev1.JoinResponse, error) {
	if err := d.tokens.Spend(r.GetToken(), r.GetNode(), "127.0.0.1"); err != nil {
		return nil, err
	}
	answer, err := d.w.Sign(context.Background(), &keregev1.SignRequest{Csr: r.GetCsr()})
	return &keregev1.JoinResponse{Chain: answer.GetChain(), Bundle: answer.GetBundle(), TrustDomain: "kerege.test", Node: r.GetNode()}, err
}
