package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/kerege/kerege/config"
	"github.com/kerege/kerege/mesh"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// rig is a real server on loopback, with its own directories, files and ports.
type rig struct {
	t   *testing.T
	dir string
	cfg *config.Server
	log *diary

	s    *Server
	stop func() error // takes it down and gives Run's answer
}

// files says: web may call api, which is not in the mesh but on vm-2.
const files = `mesh { trust_domain = "test.example" }

service "web" {
  instance "web-1" {
    address = "10.0.0.1"
    port    = 80
    node    = "vm-1"
  }
}

service "api" {
  instance "api-1" {
    address = "10.0.0.2"
    port    = 8080
    node    = "vm-2"
  }
}

intention "api" {
  allow { from = ["web"] }
}
`

func newRig(t *testing.T) *rig {
	t.Helper()
	dir, err := os.MkdirTemp("", "krs") // short, for the socket
	noError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	r := &rig{t: t, dir: dir, log: &diary{}}
	noError(t, os.Mkdir(filepath.Join(dir, "mesh"), 0o755))
	r.cfg = &config.Server{Name: "s1", DataDir: filepath.Join(dir, "data"), RunDir: filepath.Join(dir, "run"), MeshPaths: []string{filepath.Join(dir, "mesh")},
		Advertise: "127.0.0.1", Addresses: config.Addresses{GRPC: freePort(t), HTTPS: freePort(t), Metrics: freePort(t)}, FirstGrace: time.Second}
	r.write(files)
	t.Cleanup(func() {
		if r.stop != nil {
			if err := r.stop(); err != nil {
				t.Error(err)
			}
		}
	})
	return r
}

// freePort is one that no outgoing connection is given meanwhile: it lies below
// the range that the kernel draws from.
func freePort(t *testing.T) string {
	t.Helper()
	for range 100 {
		if l, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", 10000+rand.N(20000))); err == nil {
			defer l.Close()
			return l.Addr().String()
		}
	}
	t.Fatal("no port of 100 is free")
	return ""
}

// write makes the mesh's one file say something.
func (r *rig) write(text string) {
	r.t.Helper()
	noError(r.t, os.WriteFile(filepath.Join(r.dir, "mesh", "mesh.hcl"), []byte(text), 0o600))
}

func (r *rig) open() error {
	r.t.Helper()
	s, err := New(r.cfg, r.options(nil))
	r.s = s
	return err
}

func (r *rig) options(ready func(string)) Options {
	return Options{Version: "1.2.3", Logger: hclog.New(&hclog.LoggerOptions{Output: r.log, Level: hclog.Debug}), Ready: ready}
}

// start runs the server until it serves.
func (r *rig) start() *rig {
	r.t.Helper()
	ready := make(chan string, 1)
	s, err := New(r.cfg, r.options(func(status string) { ready <- status }))
	noError(r.t, err)
	r.s = s
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	r.stop = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-done:
			return err
		case <-time.After(10 * time.Second):
			return context.DeadlineExceeded
		}
	})
	select {
	case <-ready:
	case err := <-done:
		done <- err
		r.t.Fatalf("the server ended: %v\n%s", err, r.log)
	case <-time.After(10 * time.Second):
		r.t.Fatalf("not ready\n%s", r.log)
	}
	return r
}

// again takes the server down and starts it on what it left.
func (r *rig) again() {
	r.t.Helper()
	noError(r.t, r.stop())
	r.start()
}

func (r *rig) roots() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(r.s.ca.Bundle())
	return pool
}

// ask sends a request over the local socket ("") or https, and reads the answer.
func (r *rig) ask(base, method, path, body string, headers ...string) (int, string) {
	r.t.Helper()
	transport := &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{RootCAs: r.roots()}}
	if base == "" {
		base = "http://kerege"
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(r.cfg.RunDir, "server", "api.sock"))
		}
	}
	ctx, cancel := context.WithTimeout(r.t.Context(), 10*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, base+path, strings.NewReader(body))
	noError(r.t, err)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := (&http.Client{Transport: transport}).Do(req)
	noError(r.t, err)
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	noError(r.t, err)
	return resp.StatusCode, string(text)
}

func (r *rig) https() string { return "https://" + r.cfg.Addresses.HTTPS }

// local asks over the local socket for a JSON answer that must be good.
func local[T any](r *rig, method, path, body string) (answer T) {
	r.t.Helper()
	code, text := r.ask("", method, path, body)
	if code != http.StatusOK {
		r.t.Fatalf("%s %s: %d %s", method, path, code, text)
	}
	noError(r.t, json.Unmarshal([]byte(text), &answer))
	return answer
}

// holder has an identity signed past every rule, to show it to the server.
func (r *rig) holder(id mesh.Identity) *tls.Certificate {
	r.t.Helper()
	key, csr := newRequest(r.t)
	chain, err := r.s.ca.Sign(csr, id, 0)
	noError(r.t, err)
	return &tls.Certificate{Certificate: chain, PrivateKey: key}
}

func (r *rig) nodeCert(name string) *tls.Certificate {
	return r.holder(mesh.Identity{TrustDomain: r.s.ca.TrustDomain(), Kind: mesh.KindNodeIdentity, Name: name})
}

// dial connects to the nodes' port as whoever holds a certificate; nil is a stranger.
func (r *rig) dial(cert *tls.Certificate) *grpc.ClientConn {
	r.t.Helper()
	conf := &tls.Config{RootCAs: r.roots(), ServerName: "localhost"}
	if cert != nil {
		conf.Certificates = []tls.Certificate{*cert}
	}
	c, err := grpc.NewClient(r.cfg.Addresses.GRPC, grpc.WithTransportCredentials(credentials.NewTLS(conf)))
	noError(r.t, err)
	r.t.Cleanup(func() { c.Close() })
	return c
}

// until waits for something to become true.
func (r *rig) until(what string, ok func() bool) {
	r.t.Helper()
	deadline := time.Now().Add(8 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			r.t.Fatalf("never: %s\n%s", what, r.log)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

// diary is a server's log.
type diary struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (d *diary) Write(b []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.text.Write(b)
}

func (d *diary) String() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.text.String()
}
