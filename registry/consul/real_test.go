//go:build e2e

package consul_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/kerege/kerege/e2e/parts"
	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/registry/consul"
)

// agent is one real Consul server on a loopback address.
type agent struct {
	t      *testing.T
	config string
	addr   string
	cmd    *exec.Cmd
	ended  chan struct{}
	log    *os.File
	*api.Client
}

type settings map[string]any

// ports finds free ports on an address.
func ports(t *testing.T, ip string, n int) []int {
	t.Helper()
	var list []int
	for range n {
		l, err := net.Listen("tcp", net.JoinHostPort(ip, "0"))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		list = append(list, l.Addr().(*net.TCPAddr).Port)
	}
	return list
}

// boot starts a server whose data outlives a kill. It ends with the test.
func boot(t *testing.T, ip string, port []int, more settings) *agent {
	t.Helper()
	dir := t.TempDir()
	cfg := settings{
		"server": true, "bootstrap_expect": 1, "data_dir": filepath.Join(dir, "data"), "node_name": "srv-" + ip,
		"bind_addr": ip, "advertise_addr": ip, "client_addr": ip, "log_level": "warn", "disable_update_check": true,
		"performance": settings{"raft_multiplier": 1}, "leave_on_terminate": false,
		"ports": settings{"http": port[0], "serf_lan": port[1], "serf_wan": -1, "server": port[2], "dns": -1, "grpc": -1, "grpc_tls": -1},
	}
	for k, v := range more {
		cfg[k] = v
	}
	text, err := json.Marshal(cfg)
	if err != nil {
		t.Fatal(err)
	}
	a := &agent{t: t, config: filepath.Join(dir, "consul.json"), addr: fmt.Sprintf("%s:%d", ip, port[0])}
	if err := os.WriteFile(a.config, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if a.log, err = os.Create(filepath.Join(dir, "log")); err != nil {
		t.Fatal(err)
	}
	a.Client, err = api.NewClient(&api.Config{Address: a.addr, Token: "root"})
	if err != nil {
		t.Fatal(err)
	}
	a.start()
	t.Cleanup(func() {
		a.signal(syscall.SIGCONT)
		a.kill()
		if t.Failed() {
			text, _ := os.ReadFile(a.log.Name())
			t.Logf("consul at %s:\n%s", a.addr, text[max(0, len(text)-4000):])
		}
		a.log.Close()
	})
	return a
}

func (a *agent) start() {
	a.t.Helper()
	a.cmd = exec.Command(parts.Path(a.t, "consul"), "agent", "-config-file", a.config)
	a.cmd.Stdout, a.cmd.Stderr = a.log, a.log
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := a.cmd.Start(); err != nil {
		a.t.Fatal(err)
	}
	ended := make(chan struct{})
	a.ended = ended
	go func(cmd *exec.Cmd) { cmd.Wait(); close(ended) }(a.cmd)
}

func (a *agent) signal(sig syscall.Signal) { _ = a.cmd.Process.Signal(sig) }

func (a *agent) kill() {
	a.signal(syscall.SIGKILL)
	<-a.ended
}

func (a *agent) ready() {
	a.t.Helper()
	within(a.t, 60*time.Second, "consul's leader", func() bool {
		l, err := a.Status().Leader()
		if err != nil || l == "" {
			return false
		}
		nodes, _, err := a.Catalog().Nodes(nil)
		return err == nil && len(nodes) > 0
	})
}

func (a *agent) register(s *api.AgentServiceRegistration) {
	a.t.Helper()
	if err := a.Agent().ServiceRegister(s); err != nil {
		a.t.Fatal(err)
	}
}

// entry puts an instance into the catalog without an agent.
func (a *agent) entry(service string, i int) {
	a.t.Helper()
	_, err := a.Catalog().Register(&api.CatalogRegistration{
		Node: "ext-1", Address: "10.0.0.1", SkipNodeUpdate: true,
		Service: &api.AgentService{ID: fmt.Sprint(service, "-", i), Service: service, Address: fmt.Sprintf("10.1.%d.%d", i/250, i%250+1), Port: 80},
	}, nil)
	if err != nil {
		a.t.Fatal(err)
	}
}

func fromReal(t *testing.T, a *agent, token string) *ear {
	t.Helper()
	e := listen(t, consul.Options{Address: a.addr, Token: text(token)})
	within(t, 20*time.Second, "the first word", e.complete)
	return e
}

type text string

func (s text) Reveal() string { return string(s) }

func state(e *ear, want mesh.SourceState) func() bool {
	return func() bool { return e.src.Report().State == want }
}

func median(list []time.Duration) (mid, p99, worst time.Duration) {
	slices.Sort(list)
	return list[len(list)/2], list[len(list)*99/100], list[len(list)-1]
}

// each runs a test with Consul's streaming on and off.
func each(t *testing.T, f func(t *testing.T, streaming settings)) {
	for _, on := range []bool{true, false} {
		t.Run(fmt.Sprintf("streaming=%v", on), func(t *testing.T) {
			f(t, settings{"use_streaming_backend": on, "rpc": settings{"enable_streaming": on}})
		})
	}
}

func TestRealConsulFollowsRegistrations(t *testing.T) {
	each(t, func(t *testing.T, cfg settings) {
		a := boot(t, "127.0.0.1", ports(t, "127.0.0.1", 3), cfg)
		a.ready()
		e := fromReal(t, a, "")
		a.register(&api.AgentServiceRegistration{
			ID: "api-1", Name: "api", Port: 8080, Address: "10.0.0.7", Tags: []string{"v1", "kerege=true"},
			Meta:            map[string]string{"version": "v1", "kerege-protocol": "http"},
			TaggedAddresses: map[string]api.ServiceAddress{"wan": {Address: "192.0.2.7", Port: 80}},
			Weights:         &api.AgentWeights{Passing: 10, Warning: 3},
			Check:           &api.AgentServiceCheck{CheckID: "ttl", TTL: "1h", Status: "passing"},
		})
		within(t, 2*time.Second, "a new service", func() bool { return e.count("api") == 1 })
		got := e.part("api").Instances[0]
		if got.Addr != netip.MustParseAddrPort("10.0.0.7:8080") || got.Weight != 10 || got.Health != mesh.Healthy || got.Datacenter != "dc1" ||
			got.Protocol != mesh.ProtocolHTTP || got.Meta["version"] != "v1" || got.Tagged["wan"].Port() != 80 || got.Node != "srv-127.0.0.1" {
			t.Errorf("instance %+v", got)
		}
		is := func(h mesh.Health) func() bool {
			return func() bool { return e.count("api") == 1 && e.part("api").Instances[0].Health == h }
		}
		steps := []struct {
			what string
			do   func() error
			want func() bool
		}{
			{"warning", func() error { return a.Agent().UpdateTTL("ttl", "", "warning") }, func() bool {
				return is(mesh.Warning)() && e.part("api").Instances[0].Weight == 3
			}},
			{"critical", func() error { return a.Agent().UpdateTTL("ttl", "", "critical") }, is(mesh.Unhealthy)},
			{"passing", func() error { return a.Agent().UpdateTTL("ttl", "", "passing") }, is(mesh.Healthy)},
			{"service maintenance", func() error { return a.Agent().EnableServiceMaintenance("api-1", "test") }, is(mesh.Unhealthy)},
			{"back from it", func() error { return a.Agent().DisableServiceMaintenance("api-1") }, is(mesh.Healthy)},
			{"node maintenance", func() error { return a.Agent().EnableNodeMaintenance("test") }, is(mesh.Unhealthy)},
			{"back from it too", func() error { return a.Agent().DisableNodeMaintenance() }, is(mesh.Healthy)},
			{"deregistration", func() error { return a.Agent().ServiceDeregister("api-1") }, func() bool { return e.count("api") == 0 }},
		}
		for _, s := range steps {
			began := time.Now()
			if err := s.do(); err != nil {
				t.Fatalf("%s: %v", s.what, err)
			}
			within(t, 5*time.Second, s.what, s.want)
			if d := time.Since(began); d > time.Second {
				t.Errorf("%s took %v", s.what, d)
			}
		}
		a.register(&api.AgentServiceRegistration{ID: "p", Name: "web-proxy", Kind: api.ServiceKindConnectProxy, Port: 20000,
			Proxy: &api.AgentServiceConnectProxyConfig{DestinationServiceName: "web"}})
		time.Sleep(500 * time.Millisecond)
		if e.count("web-proxy") != 0 {
			t.Error("a connect proxy is taken for a service")
		}
	})
}

func TestRealConsulLatency(t *testing.T) {
	each(t, func(t *testing.T, cfg settings) {
		a := boot(t, "127.0.0.1", ports(t, "127.0.0.1", 3), cfg)
		a.ready()
		if _, err := a.Catalog().Register(&api.CatalogRegistration{Node: "ext-1", Address: "10.0.0.1"}, nil); err != nil {
			t.Fatal(err)
		}
		a.entry("api", 0)
		e := fromReal(t, a, "")
		_, meta, err := a.Health().Service("api", "", false, &api.QueryOptions{WaitIndex: 1})
		if err != nil {
			t.Fatal(err)
		}
		measure := func(what string, n int, write func(i int), seen func(i int) func() bool) {
			var took []time.Duration
			for i := range n {
				began := time.Now()
				write(i)
				within(t, 5*time.Second, what, seen(i))
				took = append(took, time.Since(began))
				time.Sleep(20 * time.Millisecond)
			}
			mid, p99, worst := median(took)
			t.Logf("%s, backend %s: median %v, p99 %v, worst %v of %d", what, meta.QueryBackend, mid, p99, worst, n)
			if p99 > time.Second {
				t.Errorf("%s: p99 %v", what, p99)
			}
		}
		measure("catalog write to part", 50, func(i int) { a.entry("api", i+1) }, func(i int) func() bool {
			return func() bool { return e.count("api") == i+2 }
		})
		measure("removal to part", 30, func(i int) {
			if _, err := a.Catalog().Deregister(&api.CatalogDeregistration{Node: "ext-1", ServiceID: fmt.Sprint("api-", 50-i)}, nil); err != nil {
				t.Fatal(err)
			}
		}, func(i int) func() bool {
			return func() bool { return e.count("api") == 50-i }
		})
		measure("new service to part", 10, func(i int) { a.entry(fmt.Sprint("new", i), 1) }, func(i int) func() bool {
			return func() bool { return e.count(fmt.Sprint("new", i)) == 1 }
		})
	})
}

const readAll = `node_prefix "" { policy = "read" }
agent_prefix "" { policy = "read" }
service_prefix "" { policy = "read" }`

// A7 and A8 on the real thing: a token narrowed, restored, taken away, replaced.
func TestRealConsulTokens(t *testing.T) {
	each(t, func(t *testing.T, cfg settings) {
		cfg["acl"] = settings{"enabled": true, "default_policy": "deny", "tokens": settings{"initial_management": "root", "agent": "root"}}
		a := boot(t, "127.0.0.1", ports(t, "127.0.0.1", 3), cfg)
		a.ready()
		within(t, 20*time.Second, "acls", func() bool {
			_, _, err := a.ACL().PolicyCreate(&api.ACLPolicy{Name: "kerege", Rules: readAll}, nil)
			return err == nil
		})
		p, _, err := a.ACL().PolicyReadByName("kerege", nil)
		if err != nil {
			t.Fatal(err)
		}
		create := func() *api.ACLToken {
			tok, _, err := a.ACL().TokenCreate(&api.ACLToken{Policies: []*api.ACLLink{{ID: p.ID}}}, nil)
			if err != nil {
				t.Fatal(err)
			}
			return tok
		}
		tok := create()
		file := filepath.Join(t.TempDir(), "token")
		if err := os.WriteFile(file, []byte(tok.SecretID), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Catalog().Register(&api.CatalogRegistration{Node: "ext-1", Address: "10.0.0.1"}, nil); err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			a.entry("api", i)
		}
		e := listen(t, consul.Options{Address: a.addr, TokenFile: file})
		within(t, 20*time.Second, "the first word", e.complete)
		if e.count("api") != 3 {
			t.Fatalf("%d instances", e.count("api"))
		}
		three := func() bool { return e.count("api") == 3 }
		rules := func(text string) {
			p.Rules = text
			if _, _, err := a.ACL().PolicyUpdate(p, nil); err != nil {
				t.Fatal(err)
			}
		}
		rules(`node_prefix "" { policy = "read" }`)
		a.entry("web", 1) // wakes long polls, as does the change of the token by itself when it streams
		a.entry("api", 0)
		within(t, 20*time.Second, "filtered", state(e, mesh.SourceFiltered))
		stays(t, 5*time.Second, "three instances under a narrowed token", three)
		rules(readAll)
		within(t, 40*time.Second, "ok again", state(e, mesh.SourceOK))
		stays(t, time.Second, "three instances", three)
		if _, err := a.ACL().TokenDelete(tok.AccessorID, nil); err != nil {
			t.Fatal(err)
		}
		a.entry("api", 3)
		within(t, 60*time.Second, "denied", state(e, mesh.SourceDenied))
		stays(t, 3*time.Second, "three instances without a token", three)
		if err := os.WriteFile(file, []byte(create().SecretID), 0o600); err != nil {
			t.Fatal(err)
		}
		within(t, 40*time.Second, "the new token", func() bool { return e.count("api") == 4 && state(e, mesh.SourceOK)() })
	})
}

func TestRealConsulKilled(t *testing.T) {
	a := boot(t, "127.0.0.1", ports(t, "127.0.0.1", 3), nil)
	a.ready()
	a.register(&api.AgentServiceRegistration{ID: "api-1", Name: "api", Port: 80, Address: "10.0.0.1"})
	a.register(&api.AgentServiceRegistration{ID: "api-2", Name: "api", Port: 80, Address: "10.0.0.2"})
	e := fromReal(t, a, "")
	within(t, 5*time.Second, "two instances", func() bool { return e.count("api") == 2 })
	before := e.said()
	a.kill()
	within(t, 10*time.Second, "error", state(e, mesh.SourceError))
	stays(t, 8*time.Second, "nothing is said of what nobody sees", func() bool { return e.said() == before && e.count("api") == 2 })
	if age := time.Since(e.src.Report().Since); age < 5*time.Second {
		t.Errorf("the age does not rise: %v", age)
	}
	a.start()
	a.ready()
	began := time.Now()
	within(t, 5*time.Second, "ok again", state(e, mesh.SourceOK))
	t.Logf("ok %v after the leader was back", time.Since(began))
	a.register(&api.AgentServiceRegistration{ID: "api-3", Name: "api", Port: 80, Address: "10.0.0.3"})
	within(t, 5*time.Second, "three instances", func() bool { return e.count("api") == 3 })
}

// A1: the leader of three stops, then the quorum is lost, then all come back.
func TestRealConsulLeaderLost(t *testing.T) {
	port := ports(t, "127.41.0.1", 3)
	var all []*agent
	var join []string
	for i := range 3 {
		join = append(join, fmt.Sprintf("127.41.0.%d:%d", i+1, port[1]))
	}
	for i := range 3 {
		all = append(all, boot(t, fmt.Sprintf("127.41.0.%d", i+1), port, settings{"bootstrap_expect": 3, "retry_join": join, "retry_interval": "1s"}))
	}
	all[0].ready()
	leader, err := all[0].Status().Leader()
	if err != nil {
		t.Fatal(err)
	}
	var boss *agent
	var rest []*agent
	for _, a := range all {
		host, _, _ := net.SplitHostPort(a.addr)
		if bytes.HasPrefix([]byte(leader), []byte(host+":")) {
			boss = a
		} else {
			rest = append(rest, a)
		}
	}
	if boss == nil || len(rest) != 2 {
		t.Fatalf("the leader is %q", leader)
	}
	if _, err := rest[0].Catalog().Register(&api.CatalogRegistration{Node: "ext-1", Address: "10.0.0.1"}, nil); err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		rest[0].entry("api", i)
	}
	e := fromReal(t, rest[0], "")
	five := func() bool { return e.count("api") == 5 }
	if !five() {
		t.Fatalf("%d instances", e.count("api"))
	}
	boss.signal(syscall.SIGSTOP)
	stays(t, 10*time.Second, "five instances with the leader gone", five)
	rest[1].signal(syscall.SIGSTOP) // no quorum: nobody can become leader
	within(t, 30*time.Second, "not ok without a quorum", func() bool { return e.src.Report().State != mesh.SourceOK })
	stays(t, 10*time.Second, "five instances without a quorum", five)
	if age := time.Since(e.src.Report().Since); age < 5*time.Second {
		t.Errorf("the age does not rise: %v", age)
	}
	boss.signal(syscall.SIGCONT)
	rest[1].signal(syscall.SIGCONT)
	within(t, 60*time.Second, "consul's new leader", func() bool {
		_, _, err := rest[0].Catalog().Nodes(&api.QueryOptions{RequireConsistent: true})
		return err == nil
	})
	began := time.Now()
	within(t, 10*time.Second, "ok again", state(e, mesh.SourceOK))
	if d := time.Since(began); d > 5*time.Second {
		t.Errorf("it took %v to recover", d)
	}
	within(t, 20*time.Second, "a write after it", func() bool {
		_, err := rest[0].Catalog().Register(&api.CatalogRegistration{Node: "ext-1", Address: "10.0.0.1", Service: &api.AgentService{ID: "api-9", Service: "api", Address: "10.2.0.1", Port: 80}}, nil)
		return err == nil
	})
	within(t, 5*time.Second, "six instances", func() bool { return e.count("api") == 6 })
}
