package agent

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	"github.com/hashicorp/go-hclog"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/kerege/kerege/agent/capture"
	"github.com/kerege/kerege/agent/envoy"
	"github.com/kerege/kerege/api"
	"github.com/kerege/kerege/config"
	"github.com/kerege/kerege/e2e/xdsim"
	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/server"
)

func osWrite(path, text string) error { return os.WriteFile(path, []byte(text), 0o600) }

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	out, err := filepath.Glob(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// place is a server and a node on loopback, without root and without a network.
type place struct {
	t      *testing.T
	ctx    context.Context
	dir    string
	port   int
	server func() // stops it
	node   func()
	agent  *Agent
	client *Client
	opt    Options
	cap    capturer

	metrics string // where the agent's plain port is; "": none
}

func newPlace(t *testing.T, meshText string) *place {
	dir, err := os.MkdirTemp("", "kra") // short, for socket paths
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	p := &place{t: t, ctx: ctx, dir: dir, port: freePort(t)}
	t.Cleanup(func() {
		p.stopNode()
		p.stopServer()
		cancel()
		os.RemoveAll(dir)
	})
	if err := os.MkdirAll(dir+"/mesh", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := osWrite(dir+"/mesh/mesh.hcl", meshText); err != nil {
		t.Fatal(err)
	}
	return p
}

// freePort is one that no outgoing connection is given meanwhile: it lies below
// the range that the kernel draws from.
func freePort(t *testing.T) int {
	t.Helper()
	for range 100 {
		if l, err := net.Listen("tcp", fmt.Sprint("127.0.0.1:", 10000+rand.N(20000))); err == nil {
			defer l.Close()
			return l.Addr().(*net.TCPAddr).Port
		}
	}
	t.Fatal("no port of 100 is free")
	return 0
}

func (p *place) log(name string) hclog.Logger {
	if os.Getenv("KEREGE_TEST_LOG") == "" {
		return hclog.NewNullLogger()
	}
	return hclog.New(&hclog.LoggerOptions{Name: name, Level: hclog.Debug, Output: os.Stderr})
}

// oneHost makes the mesh's addresses on loopback count: all is here.
func oneHost(m *config.Mesh) mesh.Part {
	part, cfg := m.Part(), mesh.Config{}
	if part.Mesh != nil {
		cfg = *part.Mesh
	}
	cfg.OneHost = true
	part.Mesh = &cfg
	return part
}

func (p *place) startServer() {
	p.t.Helper()
	cfg := &config.Server{Name: "server", DataDir: p.dir + "/sdata", RunDir: p.dir + "/srun", MeshPaths: []string{p.dir + "/mesh"},
		Advertise: "127.0.0.1", Addresses: config.Addresses{GRPC: fmt.Sprintf("127.0.0.1:%d", p.port), HTTPS: "none", Metrics: "none"}, FirstGrace: time.Second,
		CA: config.CA{LeafTTL: time.Hour, IntermediateTTL: 24 * time.Hour, RootTTL: 240 * time.Hour}}
	ready := make(chan struct{})
	s, err := server.New(cfg, server.Options{Version: "test", Logger: p.log("server"), Ready: func(string) { close(ready) }, Part: oneHost})
	if err != nil {
		p.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(p.ctx)
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	p.server = func() { cancel(); <-ended }
	select {
	case <-ready:
	case err := <-ended:
		p.t.Fatalf("the server ended: %v", err)
	case <-p.ctx.Done():
		p.t.Fatal("the server is not ready")
	}
}

func (p *place) stopServer() {
	if p.server != nil {
		p.server()
		p.server = nil
	}
}

func (p *place) token() string {
	p.t.Helper()
	c, err := api.NewClient(api.Options{Address: "unix://" + p.dir + "/srun/server/api.sock"})
	if err != nil {
		p.t.Fatal(err)
	}
	var out api.Token
	if err := c.Post(p.ctx, "/v1/tokens", api.TokenRequest{Node: "n1", TTLSeconds: 60}, &out); err != nil {
		p.t.Fatal(err)
	}
	return out.Token
}

func (p *place) startNode() {
	p.t.Helper()
	cfg := &config.Agent{Node: "n1", DataDir: p.dir + "/data", RunDir: p.dir + "/run", RetryJoin: []string{fmt.Sprintf("127.0.0.1:%d", p.port)},
		DNS: config.DNS{Enabled: true, Address: "127.0.0.1:0", Domain: "mesh"}, Metrics: p.metrics, Envoy: config.Envoy{Path: "envoy"}}
	p.opt.Logger, p.opt.Version = p.log("agent"), "test"
	a, err := New(cfg, p.opt)
	if err != nil {
		p.t.Fatal(err)
	}
	a.every = 50 * time.Millisecond
	if p.cap != nil {
		a.cap = p.cap
	}
	ctx, cancel := context.WithCancel(p.ctx)
	ended := make(chan error, 1)
	go func() { ended <- a.Run(ctx) }()
	p.agent = a
	p.node = func() {
		cancel()
		if err := <-ended; err != nil {
			p.t.Errorf("the agent ended: %v", err)
		}
	}
	if p.client, err = NewClient("unix://" + APISocket(cfg)); err != nil {
		p.t.Fatal(err)
	}
	p.until("the agent's API", func() bool { _, err := p.client.Status(p.ctx); return err == nil })
}

func (p *place) stopNode() {
	if p.node != nil {
		p.node()
		p.node = nil
	}
}

func (p *place) until(what string, ok func() bool) {
	p.t.Helper()
	for range 1000 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	var st any
	if p.client != nil {
		st, _ = p.client.Status(p.ctx)
	}
	p.t.Fatalf("%s: not in time; %+v", what, st)
}

// envoy connects to web's socket as its Envoy would.
func (p *place) envoy() *xdsim.Client {
	p.t.Helper()
	p.until("the socket", func() bool { // it is there a moment before it listens
		c, err := net.Dial("unix", p.dir+"/run/proxy/web/xds.sock")
		return err == nil && c.Close() == nil
	})
	conn, err := grpc.NewClient("unix:"+p.dir+"/run/proxy/web/xds.sock", grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		p.t.Fatal(err)
	}
	c, err := xdsim.Open(p.ctx, conn, &corev3.Node{Id: "web/n1", UserAgentName: "envoy", UserAgentVersionType: &corev3.Node_UserAgentVersion{UserAgentVersion: "1.40.0"}}, xdsim.Mode{}, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() { c.Close(); conn.Close() })
	return c
}

// web is the one workload's row; a zero one when there is none.
func (p *place) web() api.AgentWorkload {
	st, err := p.client.Status(p.ctx)
	if err != nil {
		return api.AgentWorkload{}
	}
	for _, w := range st.Workloads {
		if w.Service == "web" {
			return w
		}
	}
	return api.AgentWorkload{}
}

const oneNode = `mesh { trust_domain = "t.example" }
service "web" {
  protocol = "http"
  instance "web-1" {
    address = "127.0.0.1"
    port    = 18080
    node    = "n1"
  }
}
service "api" {
  protocol = "http"
  instance "api-1" {
    address = "127.0.0.2"
    port    = 18081
    node    = "n2"
  }
}
intention "api" {
  allow { from = ["web"] }
}
`

func explicit() map[string]Explicit {
	return map[string]Explicit{"web": {
		Upstreams: []envoy.Explicit{{Service: "api", Port: 18081, LocalPort: 28081}},
		Accept:    []envoy.Accept{{Listen: netip.MustParseAddrPort("127.0.0.1:18080"), App: netip.MustParseAddrPort("127.0.0.1:18090")}},
	}}
}

func TestANodeFromTokenToMeshAndOutAgain(t *testing.T) {
	p := newPlace(t, oneNode)
	p.opt.Explicit = explicit()
	p.startServer()
	p.startNode()
	if st, _ := p.client.Status(p.ctx); st.Joined || st.Steps[0].Name != "identity" || !strings.Contains(st.Steps[0].Error, "not joined") && st.Steps[0].State != "waiting" {
		t.Errorf("before joining: %+v", st)
	}
	if _, err := p.client.Join(p.ctx, api.AgentJoin{Token: "kj_nonsense"}); err == nil {
		t.Error("joined with nonsense")
	}
	got, err := p.client.Join(p.ctx, api.AgentJoin{Token: p.token()})
	if err != nil {
		t.Fatal(err)
	}
	if got.Node != "n1" || got.TrustDomain != "t.example" || len(got.Workloads) != 1 || got.Workloads[0].Service != "web" || got.Workloads[0].State == "in" {
		t.Errorf("joined: %+v", got)
	}
	if r, err := p.client.Ready(p.ctx, "web", ""); err != nil || r.Ready {
		t.Errorf("ready without an Envoy: %+v %v", r, err)
	}
	b, err := p.client.Bootstrap(p.ctx, "web", "", envoy.Limits{Heap: 1 << 30, Connections: 1000})
	if err != nil || !strings.Contains(string(b.Bootstrap), `"id": "web/n1"`) || b.Dir != p.dir+"/run/proxy/web" {
		t.Errorf("bootstrap: %v %+v", err, b)
	}
	e := p.envoy()
	if err := p.client.Wait(p.ctx, "web", ""); err != nil {
		t.Fatal(err)
	}
	p.until("in", func() bool { w := p.web(); return w.State == "in" && w.Accepted })
	if names, _ := p.client.Names(p.ctx); !slices.ContainsFunc(names, func(n api.AgentName) bool { return n.Name == "api.mesh" && n.V4 != "" }) {
		t.Errorf("names %+v", names)
	}
	held := e.Held(xdsim.Listener)
	if len(held) == 0 {
		t.Error("Envoy has no listeners")
	}
	p.until("the disk", func() bool {
		return len(glob(t, p.dir+"/data/proxies/web.state")) == 1 && len(glob(t, p.dir+"/data/node.json")) == 1
	})

	// Everything goes; the node alone comes back.
	e.Close()
	p.stopServer()
	p.stopNode()
	p.startNode()
	begin := time.Now()
	p.until("the socket", func() bool { _, err := os.Stat(p.dir + "/run/proxy/web/xds.sock"); return err == nil })
	e = p.envoy()
	if err := p.client.Wait(p.ctx, "web", ""); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took > 2*time.Second {
		t.Errorf("served from disk after %s", took)
	}
	if !slices.Equal(keysOf(e.Held(xdsim.Listener)), keysOf(held)) {
		t.Errorf("listeners from disk %v, want %v", e.Held(xdsim.Listener), held)
	}
	w := p.web()
	if w.State != "in" || w.Proxy.Source != "disk" || w.Proxy.Connected || w.Proxy.AgeSeconds <= 0 {
		t.Errorf("from disk: %+v", w)
	}
	if names, _ := p.client.Names(p.ctx); len(names) != 2 {
		t.Errorf("names from disk %+v", names)
	}

	// It cannot leave unheard, and does not half leave.
	if _, err := p.client.Leave(p.ctx, api.AgentLeave{Timeout: 0.2}); err == nil || !strings.Contains(err.Error(), "acknowledged") {
		t.Errorf("left without a server: %v", err)
	}
	p.startServer()
	left, err := p.client.Leave(p.ctx, api.AgentLeave{Timeout: 10})
	if err != nil || !left.Acknowledged || !left.Identity {
		t.Errorf("left: %+v %v", left, err)
	}
	p.until("not joined", func() bool {
		st, err := p.client.Status(p.ctx)
		return err == nil && !st.Joined && len(st.Workloads) == 0
	})
	if rest := glob(t, p.dir+"/data/identity/*"); len(rest) != 0 {
		t.Errorf("left behind: %v", rest)
	}
}

func keysOf(m map[string]string) []string {
	var out []string
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// TestOnlyAVerifiedCaptureLetsIn: certificate, listeners, capture, and only then in.
func TestOnlyAVerifiedCaptureLetsIn(t *testing.T) {
	f := &fakeCapture{broken: "nothing arrives at Envoy"}
	p := newPlace(t, oneNode)
	p.cap = f
	p.startServer()
	p.startNode()
	p.agent.find = func(string, ...uint16) ([]capture.Listener, error) {
		return []capture.Listener{{Port: 18080, PID: 812, UID: 33, User: "www-data"}}, nil
	}
	got, err := p.client.Join(p.ctx, api.AgentJoin{Token: p.token()})
	if err != nil || len(got.Workloads) != 1 || got.Workloads[0].User != "www-data" || got.Workloads[0].PID != 812 {
		t.Fatalf("joined: %+v %v", got, err)
	}
	p.until("the socket", func() bool { _, err := os.Stat(p.dir + "/run/proxy/web/xds.sock"); return err == nil })
	for path, want := range map[string]os.FileMode{"run": 0o755, "run/proxy": 0o755, "run/agent": 0o755, "run/proxy/web/xds.sock": 0o600, "data": 0o700} {
		if info, err := os.Stat(p.dir + "/" + path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v %v", path, info.Mode(), err)
		}
	}
	p.envoy()
	if err := p.client.Wait(p.ctx, "web", ""); err != nil {
		t.Fatal(err)
	}
	p.until("the advice", func() bool { return strings.Contains(p.web().Reason, "kerege capture apply") })
	c, err := p.client.CaptureConfig(p.ctx, "")
	if err != nil || len(c.Workloads) != 1 || !slices.Equal(c.Workloads[0].UIDs, []uint32{33}) || c.Workloads[0].InboundPort != 15006 || !slices.Equal(c.Workloads[0].Ports, []uint16{18080}) {
		t.Errorf("config %+v %v", c, err)
	}
	f.mu.Lock()
	f.stop = "9 callers would be refused"
	f.mu.Unlock()
	if _, err := p.client.CaptureApply(p.ctx, api.CaptureApply{}); err == nil || !strings.Contains(err.Error(), "9 callers") || f.text() != "dns=true run" {
		t.Errorf("a stop of the plan did not stop: %v; %s", err, f.text())
	}
	if plan, err := p.client.CapturePlan(p.ctx, "", 0); err != nil || len(plan.Workloads) != 1 || len(plan.Stops) != 1 {
		t.Errorf("plan %+v %v", plan, err)
	}
	f.mu.Lock()
	f.stop = ""
	f.mu.Unlock()
	short, cancel := context.WithTimeout(p.ctx, time.Second)
	_, err = p.client.CaptureApply(short, api.CaptureApply{})
	cancel()
	if err == nil {
		t.Error("a capture that fails its probe was confirmed")
	}
	p.until("unconfirmed", func() bool { return strings.Contains(p.web().Reason, "capture confirm") })
	if err := p.client.CaptureConfirm(p.ctx); err != nil {
		t.Fatal(err)
	}
	p.until("the probe's complaint", func() bool {
		w := p.web()
		return w.State == "joining" && strings.Contains(w.Reason, "nothing arrives")
	})
	f.mu.Lock()
	f.broken = ""
	f.mu.Unlock()
	applied, err := p.client.CaptureApply(p.ctx, api.CaptureApply{})
	if err != nil || !applied.Confirmed {
		t.Errorf("applied: %+v %v", applied, err)
	}
	p.until("in", func() bool { w := p.web(); return w.State == "in" && w.Accepted })
	left, err := p.client.Leave(p.ctx, api.AgentLeave{Service: "web"})
	if err != nil || !left.CaptureRemoved || left.Identity {
		t.Errorf("left: %+v %v", left, err)
	}
	p.until("left", func() bool { w := p.web(); return w.State == "left" && !w.Accepted })
	p.stopNode()
	if got := f.text(); !strings.HasPrefix(got, "dns=true run apply") || !strings.HasSuffix(got, "confirm remove stop dns=false") {
		t.Errorf("capture: %s", got)
	}
}

func TestWhoIsHeldAndWhy(t *testing.T) {
	list := []capture.Listener{}
	find := func(string, ...uint16) ([]capture.Listener, error) { return list, nil }
	w := &workload{placement: placement{Service: "web", Ports: []uint16{8080}, Source: "consul"}}
	if _, err := identifyProgram(w, find); err == nil || !strings.Contains(err.Error(), "nothing listens") {
		t.Error(err)
	}
	list = []capture.Listener{{Port: 8080, PID: 7, Program: "httpd", Slice: "system.slice"}}
	if _, err := identifyProgram(w, find); err == nil || !strings.Contains(err.Error(), "as root") {
		t.Error(err)
	}
	list[0].Slice = "web.slice"
	if got, err := identifyProgram(w, find); err != nil || got.slice != "web.slice" || got.by != "consul + listening socket" {
		t.Error(got, err)
	}
	w.own = &config.Workload{Name: "web", User: "no-such-user-here"}
	if _, err := identifyProgram(w, find); err == nil || !strings.Contains(err.Error(), "no-such-user-here") {
		t.Error(err)
	}
	w.own = &config.Workload{Name: "web", Netns: "blue"}
	if got, err := identifyProgram(w, find); err != nil || got.netns != "/run/netns/blue" {
		t.Error(got, err)
	}
}
