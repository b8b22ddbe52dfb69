package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/timestamppb"

	keregev1 "github.com/kerege/kerege/api/kerege/v1"
	"github.com/kerege/kerege/ca"
	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/registry"
)

// desk is a server of the three services of nodes, over TLS and an in-memory wire.
type desk struct {
	t      *testing.T
	ca     *ca.Authority
	tokens *ca.Tokens
	wire   *bufconn.Listener
	node   *nodeServer

	mu      sync.Mutex
	view    nodeView
	changed chan struct{}
	members []registry.Record
	writes  int
}

func (d *desk) View(string) (nodeView, <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.view, d.changed
}

func (d *desk) show(edit func(*nodeView)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	edit(&d.view)
	close(d.changed)
	d.changed = make(chan struct{})
}

func (d *desk) Replace(node string, want ...mesh.Member) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.writes++
	d.members = slices.DeleteFunc(d.members, func(r registry.Record) bool { return r.Node == node })
	for _, m := range want {
		d.members = append(d.members, registry.Record{Member: m})
	}
	return nil
}

func (d *desk) Seen(string) {}

func (d *desk) List() []registry.Record {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.members)
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	d := &desk{t: t, wire: bufconn.Listen(1 << 20), changed: make(chan struct{})}
	var err error
	d.ca, err = ca.Open(t.TempDir()+"/ca", ca.Options{TrustDomain: "kerege.test"})
	noError(t, err)
	d.tokens, err = ca.OpenTokens(t.TempDir()+"/tokens", ca.TokenOptions{CAHash: d.ca.Hash})
	noError(t, err)
	cert, err := d.ca.ServerCert("s1", "server.test")
	noError(t, err)
	d.view.bundle = d.ca.Bundle()
	log := hclog.NewNullLogger()
	d.node = &nodeServer{log: log, admit: d.tokens, views: d, members: d, table: newNodeTable(), trustDomain: "kerege.test", now: time.Now}
	g := grpc.NewServer(grpc.Creds(credentials.NewTLS(cert.GRPC())))
	keregev1.RegisterJoinServer(g, &joinServer{log: log, tokens: d.tokens, ca: d.ca, servers: func() []string { return []string{"s1:7401"} }, now: time.Now})
	keregev1.RegisterSignServer(g, &signServer{log: log, admit: d.tokens, ca: d.ca, views: d})
	keregev1.RegisterNodeServer(g, d.node)
	var served sync.WaitGroup
	served.Go(func() { g.Serve(d.wire) })
	t.Cleanup(func() {
		g.Stop()
		served.Wait()
		d.node.wait()
		d.ca.Close()
	})
	return d
}

func noError(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// dial connects as whoever holds a certificate; nil is a stranger.
func (d *desk) dial(cert *tls.Certificate) *grpc.ClientConn {
	d.t.Helper()
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(d.ca.Bundle())
	conf := &tls.Config{RootCAs: pool, ServerName: "server.test"}
	if cert != nil {
		conf.Certificates = []tls.Certificate{*cert}
	}
	c, err := grpc.NewClient("passthrough:///x", grpc.WithTransportCredentials(credentials.NewTLS(conf)),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return d.wire.DialContext(ctx) }))
	noError(d.t, err)
	d.t.Cleanup(func() { c.Close() })
	return c
}

func newRequest(t *testing.T) (*ecdsa.PrivateKey, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	noError(t, err)
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	noError(t, err)
	return key, csr
}

// holder has an identity signed past every rule, to show it to the server.
func (d *desk) holder(id mesh.Identity) *tls.Certificate {
	key, csr := newRequest(d.t)
	chain, err := d.ca.Sign(csr, id, 0)
	noError(d.t, err)
	return &tls.Certificate{Certificate: chain, PrivateKey: key}
}

func (d *desk) nodeCert(name string) *tls.Certificate {
	return d.holder(mesh.Identity{TrustDomain: "kerege.test", Kind: mesh.KindNodeIdentity, Name: name})
}

func refused(t *testing.T, err error, code codes.Code, says string) {
	t.Helper()
	if status.Code(err) != code || !strings.Contains(err.Error(), says) {
		t.Errorf("%v, want %v saying %q", err, code, says)
	}
}

func TestJoining(t *testing.T) {
	d := newDesk(t)
	c := keregev1.NewJoinClient(d.dial(nil))
	token, _, err := d.tokens.Create("vm-1", ca.RoleNode, 0)
	noError(t, err)
	key, csr := newRequest(t)
	ask := func(skew time.Duration, csr []byte) (*keregev1.JoinResponse, error) {
		time.Sleep(1001 * time.Millisecond) // one try a second an address
		return c.Join(t.Context(), &keregev1.JoinRequest{Token: token.Text(), Node: "vm-1", Csr: csr, Now: timestamppb.New(time.Now().Add(skew))})
	}
	for _, skew := range []time.Duration{-6 * time.Minute, 6 * time.Minute} {
		_, err = ask(skew, csr)
		refused(t, err, codes.FailedPrecondition, "clock")
	}
	_, err = ask(0, []byte("forged"))
	refused(t, err, codes.InvalidArgument, "certificate request")
	answer, err := ask(4*time.Minute, csr)
	noError(t, err)
	leaf, err := x509.ParseCertificate(answer.GetChain()[0])
	noError(t, err)
	if id, err := ca.IdentityOf(leaf); err != nil || id.String() != "spiffe://kerege.test/node/vm-1" || !key.PublicKey.Equal(leaf.PublicKey) {
		t.Errorf("%v %v", id, err)
	}
	if answer.GetTrustDomain() != "kerege.test" || string(answer.GetBundle()) != string(d.ca.Bundle()) || answer.GetServers()[0] != "s1:7401" {
		t.Errorf("%v", answer)
	}
	_, err = ask(0, csr)
	refused(t, err, codes.PermissionDenied, "was used")
}

func TestWhoGetsWhichIdentity(t *testing.T) {
	d := newDesk(t)
	d.show(func(v *nodeView) {
		v.placement = []*keregev1.Placement{{Service: "web"}, {Service: "job", Workload: "alloc-1"}}
	})
	_, csr := newRequest(t)
	sign := func(cert *tls.Certificate, service, workload string) (string, error) {
		answer, err := keregev1.NewSignClient(d.dial(cert)).Sign(t.Context(), &keregev1.SignRequest{Service: service, Workload: workload, Csr: csr})
		if err != nil {
			return "", err
		}
		leaf, err := x509.ParseCertificate(answer.GetChain()[0])
		noError(t, err)
		id, err := ca.IdentityOf(leaf)
		return id.String(), err
	}
	vm1 := d.nodeCert("vm-1")
	for ask, want := range map[[2]string]string{
		{"", ""}:           "spiffe://kerege.test/node/vm-1",
		{"web", ""}:        "spiffe://kerege.test/svc/web",
		{"job", "alloc-1"}: "spiffe://kerege.test/svc/job",
	} {
		if got, err := sign(vm1, ask[0], ask[1]); err != nil || got != want {
			t.Errorf("%v: %s %v", ask, got, err)
		}
	}
	for _, ask := range [][2]string{{"bank", ""}, {"job", ""}, {"job", "alloc-2"}, {"web", "alloc-1"}} {
		_, err := sign(vm1, ask[0], ask[1])
		refused(t, err, codes.PermissionDenied, "no registry places")
	}
	_, err := sign(vm1, "../server/s1", "")
	refused(t, err, codes.PermissionDenied, "name")
	_, err = sign(nil, "web", "")
	refused(t, err, codes.Unauthenticated, "kerege join")
	_, err = sign(d.holder(mesh.ServiceIdentity("kerege.test", "web")), "web", "")
	refused(t, err, codes.PermissionDenied, "is no node")
	_, err = sign(d.holder(mesh.Identity{TrustDomain: "kerege.test", Kind: mesh.KindServerIdentity, Name: "s1"}), "web", "")
	refused(t, err, codes.PermissionDenied, "is no node")
	noError(t, d.tokens.Ban("vm-1", "stolen"))
	_, err = sign(vm1, "web", "")
	refused(t, err, codes.PermissionDenied, "banned")
	_, err = sign(vm1, "", "")
	refused(t, err, codes.PermissionDenied, "banned")
}

type nodeClient struct {
	keregev1.Node_ConnectClient
	t *testing.T
}

func (d *desk) connect(cert *tls.Certificate) nodeClient {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), 15*time.Second) // what does not come fails the test
	d.t.Cleanup(cancel)
	c, err := keregev1.NewNodeClient(d.dial(cert)).Connect(ctx)
	noError(d.t, err)
	return nodeClient{c, d.t}
}

// until reads updates until one fits; a stream that ends fails the test.
func (c nodeClient) until(fits func(*keregev1.NodeUpdate) bool) *keregev1.NodeUpdate {
	c.t.Helper()
	for {
		u, err := c.Recv()
		noError(c.t, err)
		if fits(u) {
			return u
		}
	}
}

func accepted(want ...string) func(*keregev1.NodeUpdate) bool {
	return func(u *keregev1.NodeUpdate) bool { return u.GetAcceptedSet() && slices.Equal(u.GetAccepted(), want) }
}

func TestWhatANodeIsTold(t *testing.T) {
	d := newDesk(t)
	names := []*keregev1.Name{{Service: "web", V4: "240.0.0.1"}}
	d.show(func(v *nodeView) { v.names, v.servers = names, []string{"s1:7401"} })
	c := d.connect(d.nodeCert("vm-1"))
	u, err := c.Recv()
	noError(t, err)
	if !u.GetPlacementSet() || !u.GetNamesSet() || !u.GetBundleSet() || !u.GetAcceptedSet() || u.GetTrustDomain() != "kerege.test" || len(u.GetServers()) != 1 || u.GetNow() == nil {
		t.Errorf("the first update is not whole: %v", u)
	}
	d.show(func(v *nodeView) { v.placement = []*keregev1.Placement{{Service: "web"}} })
	u, err = c.Recv()
	noError(t, err)
	if !u.GetPlacementSet() || u.GetNamesSet() || u.GetBundleSet() || u.GetAcceptedSet() || u.GetServers() != nil {
		t.Errorf("more than what changed: %v", u)
	}
	d.show(func(*nodeView) {}) // nothing for this node
	d.show(func(v *nodeView) { v.names = nil })
	u, err = c.Recv()
	noError(t, err)
	if u.GetPlacementSet() || !u.GetNamesSet() || len(u.GetNames()) != 0 {
		t.Errorf("%v", u)
	}
}

func TestWhoIsInIsDurable(t *testing.T) {
	d := newDesk(t)
	d.show(func(v *nodeView) {
		v.placement = []*keregev1.Placement{{Service: "web"}, {Service: "job"}, {Service: "job", Workload: "a1"}}
	})
	noError(t, d.Replace("vm-2", mesh.Member{Service: "web", Node: "vm-2"}))
	cert := d.nodeCert("vm-1")
	c := d.connect(cert)
	c.until(accepted())
	report := func(c nodeClient, complete bool, members ...*keregev1.Membership) {
		t.Helper()
		noError(t, c.Send(&keregev1.NodeReport{Version: "1", Members: members, Complete: complete, Addresses: []string{"10.0.0.1", "x"}, Now: timestamppb.Now()}))
	}
	report(c, true, &keregev1.Membership{Service: "web", Ports: []uint32{8080}}, &keregev1.Membership{Service: "job"},
		&keregev1.Membership{Service: "job", Workload: "a1"}, &keregev1.Membership{Service: "bank"})
	c.until(accepted("job", "job/a1", "web"))
	rows := d.node.table.list()
	if len(rows) != 1 || !rows[0].Connected || rows[0].Version != "1" || len(rows[0].Addresses) != 1 || len(rows[0].Services) != 3 {
		t.Errorf("%+v", rows)
	}

	// A registry that cannot see takes nobody out, nor does an agent that does
	// not know yet, nor a stream that ends.
	d.show(func(v *nodeView) { v.placement = nil })
	report(c, false)
	again := d.connect(cert)
	again.until(accepted("job", "job/a1", "web"))
	if _, err := waitEnd(c); status.Code(err) != codes.Aborted {
		t.Errorf("the older stream of the node: %v", err)
	}
	before := d.writes
	report(again, true, &keregev1.Membership{Service: "web", Ports: []uint32{8080}}, &keregev1.Membership{Service: "job", Workload: "a1"})
	again.until(accepted("job/a1", "web"))
	if d.writes != before+1 {
		t.Errorf("%d writes: one that stays is out of the mesh between two", d.writes-before)
	}
	report(again, true, &keregev1.Membership{Service: "web", Ports: []uint32{8080}}, &keregev1.Membership{Service: "job", Workload: "a1"})
	d.show(func(v *nodeView) { v.names = []*keregev1.Name{{Service: "web", V4: "240.0.0.1"}} })
	again.until(func(u *keregev1.NodeUpdate) bool { return u.GetNamesSet() })
	if d.writes != before+1 {
		t.Error("a report that changes nothing is written")
	}
	if list := d.List(); len(list) != 3 || list[0].Node != "vm-2" {
		t.Errorf("another node's member is touched: %v", list)
	}
}

func waitEnd(c nodeClient) (*keregev1.NodeUpdate, error) {
	for {
		if u, err := c.Recv(); err != nil {
			return u, err
		}
	}
}

func TestAnEvictedNodeIsCutOff(t *testing.T) {
	d := newDesk(t)
	cert := d.nodeCert("vm-1")
	c := d.connect(cert)
	c.until(accepted())
	begin := time.Now()
	noError(t, d.tokens.Evict("vm-1"))
	c.until(func(u *keregev1.NodeUpdate) bool { return u.GetEvicted() })
	_, err := waitEnd(c)
	refused(t, err, codes.PermissionDenied, "was evicted")
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("it took %v", took)
	}
	_, err = waitEnd(d.connect(cert))
	refused(t, err, codes.PermissionDenied, "kerege join")
}
