//go:build e2e

package suite

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/kerege/kerege/agent/identity"
	"github.com/kerege/kerege/agent/seal"
	keregev1 "github.com/kerege/kerege/api/kerege/v1"
	"github.com/kerege/kerege/e2e/lab"
	"github.com/kerege/kerege/e2e/town"
)

const clusterType = "type.googleapis.com/envoy.config.cluster.v3.Cluster"

// asks opens a stream that says it is the proxy id, and returns the code by which it ends;
// OK when it is served.
func asks(ctx context.Context, conn grpc.ClientConnInterface, id string) (codes.Code, string) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(conn).DeltaAggregatedResources(ctx)
	if err == nil {
		service, _, _ := strings.Cut(id, "/")
		err = stream.Send(&discovery.DeltaDiscoveryRequest{Node: &core.Node{Id: id, Cluster: service}, TypeUrl: clusterType, ResourceNamesSubscribe: []string{"*"}})
	}
	if err == nil {
		_, err = stream.Recv()
	}
	return status.Code(err), status.Convert(err).Message()
}

// C16, C17 and D1, over the wire of a mesh that runs.
func TestIdentityOnTheWire(t *testing.T) {
	ctx, w, _ := pair(t, allowWeb)
	web := w.Hosts["web"]
	must(t, web.WaitFor(ctx, api+"/", 200, 10*time.Second))
	socket := filepath.Join(web.Dir, "run/proxy/web/xds.sock")

	t.Run("another user's process at a proxy's socket (C16)", func(t *testing.T) {
		for _, name := range []string{"xds.sock", "admin.sock"} {
			out, code := web.Combined(ctx, lab.Spec{UID: town.UIDApp, Args: []string{"curl", "-sS", "--max-time", "3", "--unix-socket", filepath.Join(filepath.Dir(socket), name), "http://x/config_dump"}})
			if code != 7 {
				t.Errorf("%s: exit %d: %s", name, code, out)
			}
		}
		out, code := web.Combined(ctx, lab.Spec{UID: town.UIDApp, Args: []string{"ls", filepath.Dir(socket)}})
		if code == 0 {
			t.Errorf("the folder can be listed: %s", out)
		}
	})
	t.Run("a second proxy's name at a proxy's socket (C16, C17)", func(t *testing.T) {
		conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
		must(t, err)
		defer conn.Close()
		for _, id := range []string{"api/api1", "api/web", "web/api1", "", "web/web/other"} {
			if code, text := asks(ctx, conn, id); code != codes.PermissionDenied {
				t.Errorf("%q at web's socket: %s: %s", id, code, text)
			}
		}
		// The same name twice is one user's own matter; the first stream must not suffer.
		if code, text := asks(ctx, conn, "web/web"); code != codes.OK {
			t.Errorf("web/web at web's socket: %s: %s", code, text)
		}
		r, err := web.Load(ctx, api+"/", 100, time.Second)
		must(t, err)
		none(t, "after strangers at the socket", r)
	})
	t.Run("a node's certificate and another node's proxy (C17, D4)", func(t *testing.T) { otherNodes(t, ctx, w) })
	t.Run("a hundred joins with one token (D1)", func(t *testing.T) { manyJoins(t, ctx, w) })
}

func fromHost(h *lab.Host) grpc.DialOption {
	return grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) { return h.Dial(ctx, "tcp", addr) })
}

// otherNodes asks with the node certificate of web for what is api's.
func otherNodes(t *testing.T, ctx context.Context, w *town.Town) {
	web := w.Hosts["web"]
	key, err := seal.LoadKey(filepath.Join(web.Dir, "data/seal.key"), false)
	must(t, err)
	node, err := identity.New(identity.Options{Dir: filepath.Join(web.Dir, "data/identity"), Key: key})
	must(t, err)
	conn, err := grpc.NewClient("passthrough:///"+w.Server.IP.String()+":7401", grpc.WithTransportCredentials(credentials.NewTLS(node.ClientTLS())), fromHost(web.Host))
	must(t, err)
	defer conn.Close()
	for id, want := range map[string]codes.Code{"web/web": codes.OK, "api/api1": codes.PermissionDenied, "api/web": codes.PermissionDenied, "web/api1": codes.PermissionDenied} {
		if code, text := asks(ctx, conn, id); code != want {
			t.Errorf("ADS as %q: %s: %s", id, code, text)
		}
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, private)
	must(t, err)
	for service, want := range map[string]codes.Code{"web": codes.OK, "api": codes.PermissionDenied, "nobody": codes.PermissionDenied} {
		_, err := keregev1.NewSignClient(conn).Sign(ctx, &keregev1.SignRequest{Service: service, Csr: csr})
		if status.Code(err) != want {
			t.Errorf("Sign of %q: %v", service, err)
		}
	}
	// Nobody's certificate at all.
	config := node.ClientTLS()
	config.GetClientCertificate = nil
	stranger, err := grpc.NewClient("passthrough:///"+w.Server.IP.String()+":7401", grpc.WithTransportCredentials(credentials.NewTLS(config)), fromHost(web.Host))
	must(t, err)
	defer stranger.Close()
	if code, text := asks(ctx, stranger, "web/web"); code != codes.Unauthenticated {
		t.Errorf("ADS without a certificate: %s: %s", code, text)
	}
	if _, err := keregev1.NewSignClient(stranger).Sign(ctx, &keregev1.SignRequest{Service: "web", Csr: csr}); status.Code(err) != codes.Unauthenticated {
		t.Errorf("Sign without a certificate: %v", err)
	}
	if log := w.ServerProc.Tail(20000); !strings.Contains(log, "audit: refused: a node asked for another node's proxy") {
		t.Error("the refusal is not in the audit log")
	}
}

// manyJoins shows one token from a hundred nodes at once: one is let in.
func manyJoins(t *testing.T, ctx context.Context, w *town.Town) {
	token, code := w.Ask(ctx, "token", "create")
	if code != 0 {
		t.Fatal(token)
	}
	token = strings.TrimSpace(token)
	for _, word := range strings.Fields(token) {
		if strings.HasPrefix(word, "kj_") {
			token = word
		}
	}
	var all sync.WaitGroup
	var mu sync.Mutex
	in, refused := 0, map[string]int{}
	start := make(chan struct{})
	for i := range 100 {
		source := fmt.Sprintf("10.77.0.%d", 100+i) // each has an address of its own, for tries are counted by address
		must(t, w.Server.Alias(source))
		m, err := identity.New(identity.Options{Dir: t.TempDir(), Key: seal.NewKey()})
		must(t, err)
		all.Go(func() {
			<-start
			err := m.Join(ctx, []string{w.Server.IP.String() + ":7401"}, token, "latecomer", grpc.WithContextDialer(func(ctx context.Context, addr string) (net.Conn, error) {
				return w.Server.DialFrom(ctx, source, "tcp", addr)
			}))
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				in++
			} else {
				refused[err.Error()]++
			}
		})
	}
	close(start)
	all.Wait()
	if in != 1 {
		t.Errorf("%d of 100 are in: %v", in, refused)
	}
	t.Logf("1 of 100 is in; the others hear: %v", refused)
}
