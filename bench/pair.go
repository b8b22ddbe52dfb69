package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/kerege/kerege/ca"
	"github.com/kerege/kerege/e2e/lab"
	"github.com/kerege/kerege/e2e/town"
	"github.com/kerege/kerege/mesh"
)

// pair is the peer of the data path: two Envoys that somebody wrote by hand, with
// mutual TLS and exact identities, HTTP/2 between them, and nothing else. Nothing
// is captured: its client calls a port on its own loopback.
type pair struct {
	client, server *lab.Host
	envoys         []*lab.Proc
	dir            string
}

const pairPort = 9080

const pairConfig = `
admin:
  address: { pipe: { path: %[1]s/admin.sock } }
static_resources:
  listeners:
  - name: in
    address: { socket_address: { address: %[2]s, port_value: %[3]d } }
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          codec_type: AUTO
          route_config: { virtual_hosts: [ { name: all, domains: ["*"], routes: [ { match: { prefix: "/" }, route: { cluster: out } } ] } ] }
          http_filters:
          - name: router
            typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }
%[4]s
  clusters:
  - name: out
    connect_timeout: 5s
    load_assignment: { cluster_name: out, endpoints: [ { lb_endpoints: [ { endpoint: { address: { socket_address: { address: %[5]s, port_value: %[6]d } } } } ] } ] }
%[7]s
`

// pairTLS is a transport socket: %s is Upstream or Downstream.
const pairTLS = `transport_socket:
  name: tls
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.%[1]sTlsContext
%[2]s    common_tls_context:
      alpn_protocols: [h2]
      tls_certificates: [ { certificate_chain: { filename: %[3]s/cert.pem }, private_key: { filename: %[3]s/key.pem } } ]
      validation_context:
        trusted_ca: { filename: %[3]s/roots.pem }
        match_typed_subject_alt_names: [ { san_type: URI, matcher: { exact: %[4]q } } ]
`

const pairHTTP2 = `    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: { http2_protocol_options: {} }
`

// startPair makes the two hosts, and their program.
func startPair(ctx context.Context, t *town.Town, self string) (*pair, error) {
	p := &pair{}
	var err error
	if p.client, err = t.Lab.Host("sweb"); err != nil {
		return nil, err
	}
	if p.server, err = t.Lab.Host("sapi"); err != nil {
		return nil, err
	}
	authority, err := ca.Open(filepath.Join(t.Lab.Dir, "pair-ca"), ca.Options{TrustDomain: trustDomain})
	if err != nil {
		return nil, err
	}
	defer authority.Close()
	if _, err := p.server.Start(programOf(self, "127.0.0.1:8080")); err != nil {
		return nil, err
	}
	web, api := mesh.ServiceIdentity(trustDomain, "web"), mesh.ServiceIdentity(trustDomain, "api")
	for _, e := range []struct {
		host *lab.Host
		me   mesh.Identity
		text string
	}{
		{p.server, api, fmt.Sprintf(pairConfig, p.server.Dir, "0.0.0.0", 9443,
			indent(6, fmt.Sprintf(pairTLS, "Downstream", "    require_client_certificate: true\n", p.server.Dir, web)), "127.0.0.1", 8080, "")},
		{p.client, web, fmt.Sprintf(pairConfig, p.client.Dir, "127.0.0.1", pairPort, "", p.server.IP, 9443,
			pairHTTP2+indent(4, fmt.Sprintf(pairTLS, "Upstream", "    sni: api\n", p.client.Dir, api)))},
	} {
		if err := writeIdentity(authority, e.host.Dir, e.me); err != nil {
			return nil, err
		}
		file := filepath.Join(e.host.Dir, "envoy.yaml")
		if err := os.WriteFile(file, []byte(e.text), 0o644); err != nil {
			return nil, fmt.Errorf("writing %s: %w", file, err)
		}
		proc, err := e.host.Start(lab.Spec{Name: "envoy", Args: []string{t.EnvoyPath, "-c", file, "--concurrency", "1", "--log-level", "warning", "--disable-hot-restart"}})
		if err != nil {
			return nil, err
		}
		p.envoys = append(p.envoys, proc)
	}
	return p, lab.Until(ctx, 20*time.Second, "the hand-written pair", func() error {
		out, err := p.client.Output(ctx, lab.Spec{Args: []string{"curl", "-sf", "--max-time", "2", fmt.Sprintf("http://127.0.0.1:%d/", pairPort)}})
		if err != nil {
			return fmt.Errorf("%w: %s\n%s\n%s", err, out, p.envoys[0].Tail(800), p.envoys[1].Tail(800))
		}
		return nil
	})
}

func writeIdentity(a *ca.Authority, dir string, id mesh.Identity) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("making a key: %w", err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return fmt.Errorf("making a request: %w", err)
	}
	chain, err := a.Sign(csr, id, 0)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("writing a key: %w", err)
	}
	var certs []byte
	for _, c := range chain {
		certs = append(certs, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c})...)
	}
	for name, text := range map[string][]byte{"cert.pem": certs, "key.pem": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), "roots.pem": a.Bundle()} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			return fmt.Errorf("writing %s: %w", name, err)
		}
	}
	return nil
}

func indent(n int, text string) string {
	pad := strings.Repeat(" ", n)
	return pad + strings.ReplaceAll(strings.TrimSpace(text), "\n", "\n"+pad)
}
