//go:build e2e

package xds

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/plan"
)

// anyHTTP speaks HTTP/1.1 and HTTP/2 without TLS, upgrades, and tells which it was.
func anyHTTP(t *testing.T) uint16 {
	t.Helper()
	return anyHTTPCounted(t, new(atomic.Int64))
}

func anyHTTPCounted(t *testing.T, n *atomic.Int64) uint16 {
	t.Helper()
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n.Add(1)
		if r.Header.Get("Upgrade") == "websocket" {
			c, buf, err := w.(http.Hijacker).Hijack()
			if err != nil {
				return
			}
			defer c.Close()
			fmt.Fprint(buf, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
			buf.Flush()
			line, _ := buf.ReadString('\n')
			fmt.Fprintf(buf, "upgraded %s", line)
			buf.Flush()
			return
		}
		fmt.Fprint(w, r.Proto)
	}))
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	return uint16(s.Listener.Addr().(*net.TCPAddr).Port)
}

func http2Client() *http.Client {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	return &http.Client{Transport: &http.Transport{Protocols: p}, Timeout: 5 * time.Second}
}

func speaks(c *http.Client, port uint16, want string) error {
	code, body, _, err := get(c, port, "/")
	if code != 200 || body != want {
		return fmt.Errorf("%d %q %v, want %s", code, body, err, want)
	}
	return nil
}

func upgrade(port uint16) error {
	c, err := net.Dial("tcp", local(port).String())
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(3 * time.Second))
	fmt.Fprint(c, "GET /chat HTTP/1.1\r\nHost: api\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	r := bufio.NewReader(c)
	res, err := http.ReadResponse(r, nil)
	if err != nil {
		return err
	}
	if res.StatusCode != 101 {
		return fmt.Errorf("status %d", res.StatusCode)
	}
	fmt.Fprint(c, "hello\n")
	line, err := r.ReadString('\n')
	if line != "upgraded hello\n" {
		return fmt.Errorf("heard %q, %v", line, err)
	}
	return nil
}

// Who has not said what a service speaks gets all of it.
func TestProtocolThatNobodyDeclared(t *testing.T) {
	ca := newTestCA(t)
	http1 := &http.Client{Transport: &http.Transport{}, Timeout: 5 * time.Second}
	for _, mtls := range []mesh.MTLS{mesh.MTLSStrict, mesh.MTLSPermissive} {
		t.Run(string(mtls), func(t *testing.T) {
			ports := freePorts(t, 4)
			app, tcpApp := anyHTTP(t), uint16(0)
			tcpApp, _ = banner(t)
			policy := testPolicy("api", 8080, "web")
			in := testInbound("api", ports[0], 8080, mesh.ProtocolUnknown, policy)
			in.MTLS = mtls
			api := startEnvoy(t, ca, destination(ca, in, app))
			in = testInbound("db", ports[2], 5432, mesh.ProtocolUnknown, testPolicy("db", 5432, "web"))
			in.MTLS = mtls
			db := startEnvoy(t, ca, destination(ca, in, tcpApp))
			a, d := testUpstream("api", 8080, mesh.ProtocolUnknown, local(ports[0])), testUpstream("db", 5432, mesh.ProtocolUnknown, local(ports[2]))
			a.Ports[0].Clusters[0].MTLS, d.Ports[0].Clusters[0].MTLS = mtls, mtls
			web := startEnvoy(t, ca, caller("web", map[uint16]*plan.Upstream{ports[1]: a, ports[3]: d}))
			if err := speaks(http1, ports[1], "HTTP/1.1"); err != nil {
				t.Error("HTTP/1.1:", err)
			}
			if err := speaks(http2Client(), ports[1], "HTTP/2.0"); err != nil {
				t.Error("HTTP/2:", err)
			}
			if err := upgrade(ports[1]); err != nil {
				t.Error("WebSocket:", err)
			}
			if said, err := talk(ports[3]); said != spoken {
				t.Errorf("a server that speaks first: %q %v", said, err)
			}
			for _, e := range []*runningEnvoy{api, db, web} {
				e.clean(t)
			}
		})
	}
}

// One service, one instance in the mesh and one bare: each is called its own way.
func TestPermissiveReachesBothKinds(t *testing.T) {
	ca := newTestCA(t)
	for _, protocol := range []mesh.Protocol{mesh.ProtocolHTTP, mesh.ProtocolHTTP2, mesh.ProtocolUnknown} {
		t.Run("protocol "+string(protocol), func(t *testing.T) {
			ports := freePorts(t, 2)
			inside, bare, n := anyHTTP(t), uint16(0), new(atomic.Int64)
			bare = anyHTTPCounted(t, n)
			policy := testPolicy("api", 8080, "web")
			policy.Default, policy.Plaintext = mesh.ActionAllow, true
			in := testInbound("api", ports[0], 8080, protocol, policy)
			in.MTLS = mesh.MTLSPermissive
			api := startEnvoy(t, ca, destination(ca, in, inside))
			up := testUpstream("api", 8080, protocol, local(ports[0]), local(bare))
			c := up.Ports[0].Clusters[0]
			c.MTLS = mesh.MTLSPermissive
			list := c.Endpoints.Groups[0].Endpoints
			for i := range list {
				list[i].In = list[i].Addr.Port() == ports[0]
			}
			web := startEnvoy(t, ca, caller("web", map[uint16]*plan.Upstream{ports[1]: up}))
			client, want := &http.Client{Transport: &http.Transport{}, Timeout: 5 * time.Second}, "HTTP/1.1"
			if protocol == mesh.ProtocolHTTP2 {
				client, want = http2Client(), "HTTP/2.0"
			}
			for range 10 {
				if err := speaks(client, ports[1], want); err != nil {
					t.Fatal(err)
				}
			}
			if n.Load() == 0 || n.Load() == 10 {
				t.Errorf("the bare instance got %d of 10 calls", n.Load())
			}
			if n, err := api.admin.Stats(t.Context(), `ssl.handshake$`); err != nil || sum(n) == 0 {
				t.Errorf("no call came by mTLS: %v %v", n, err)
			}
			// From outside the mesh, in plaintext.
			if err := speaks(client, ports[0], want); err != nil {
				t.Error("from outside:", err)
			}
			if err := upgrade(ports[0]); err != nil && protocol != mesh.ProtocolHTTP2 {
				t.Error("from outside, a WebSocket:", err)
			}
			api.clean(t)
			web.clean(t)
		})
	}
}

func sum(m map[string]uint64) (n uint64) {
	for _, v := range m {
		n += v
	}
	return n
}

func TestPlaintextMeetsTheDefault(t *testing.T) {
	ca := newTestCA(t)
	ports := freePorts(t, 2)
	app, _ := banner(t)
	in := testInbound("api", ports[0], 8080, mesh.ProtocolHTTP, testPolicy("api", 8080, "web"))
	in.MTLS = mesh.MTLSPermissive
	api := startEnvoy(t, ca, destination(ca, in, anyHTTP(t)))
	code, body, _, err := get(http.DefaultClient, ports[0], "/")
	if code != 403 || !strings.Contains(body, "a caller without a certificate") {
		t.Errorf("%d %s %v", code, body, err)
	}
	api.clean(t)

	in = testInbound("db", ports[1], 5432, mesh.ProtocolTCP, testPolicy("db", 5432, "web"))
	in.MTLS = mesh.MTLSPermissive
	db := startEnvoy(t, ca, destination(ca, in, app))
	if said, _ := talk(ports[1]); said != "" {
		t.Errorf("a bare caller that no rule lets in heard %q", said)
	}
	open := testInbound("db", ports[1], 5432, mesh.ProtocolTCP, testPolicy("db", 5432, "web"))
	open.MTLS, open.Policy.Plaintext = mesh.MTLSPermissive, true
	db.apply(t, destination(ca, open, app))
	eventually(t, 5*time.Second, func() error {
		if said, err := talk(ports[1]); said != spoken {
			return fmt.Errorf("%q %v", said, err)
		}
		return nil
	})
	db.clean(t)
}
