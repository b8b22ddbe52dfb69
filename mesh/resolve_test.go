package mesh

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

func instance(svc, source, addr string) Instance {
	return Instance{Service: ServiceName(svc), ID: svc + addr, Source: source, Node: "n1", Addr: netip.MustParseAddrPort(addr)}
}

func TestStatedDefaults(t *testing.T) {
	s, _ := Merge(Part{Source: "consul", Scope: "api", Instances: []Instance{instance("api", "consul", "10.0.0.1:8080")}})
	if c := s.Config(); c != (Config{TrustDomain: "kerege.local", MTLS: MTLSStrict, DefaultIntention: ActionDeny, Outbound: OutboundRegistered}) {
		t.Errorf("Config() = %+v", c)
	}
	svc := s.Service("api")
	if svc.MTLS != MTLSStrict || svc.DefaultIntention != ActionDeny || svc.Protocol != ProtocolUnknown ||
		*svc.Timeout != None || *svc.IdleTimeout != 5*time.Minute || *svc.Retry.Times != 2 || *svc.Retry.Budget != 20 ||
		strings.Join(svc.Retry.On, " ") != "connect-failure refused-stream reset" || !svc.Retry.Safe || svc.Balance.Policy != "least_request" ||
		*svc.Outlier.Consecutive5xx != 5 || *svc.Outlier.Interval != 10*time.Second || *svc.Outlier.Eject != 30*time.Second || *svc.Outlier.AtMost != 50 {
		t.Errorf("Service = %+v", svc)
	}
	if len(svc.Ports) != 1 || svc.Ports[0].Number != 8080 || svc.Ports[0].MTLS != MTLSStrict {
		t.Errorf("Ports = %+v", svc.Ports)
	}
	if !netip.MustParsePrefix("fd6b:6572:6567::/48").Contains(svc.VIP6) || svc.VIP4.IsValid() {
		t.Errorf("virtual addresses: %v %v", svc.VIP4, svc.VIP6)
	}
}

func TestPortsAreDeclaredElseSharedElse80(t *testing.T) {
	two := Part{Source: "consul", Scope: "api", Instances: []Instance{instance("api", "consul", "10.0.0.1:8080"), instance("api", "consul", "10.0.0.2:8081")}}
	s, _ := Merge(two)
	if p := s.Service("api").Ports; len(p) != 1 || p[0].Number != 80 {
		t.Errorf("unlike instances: %+v", p)
	}
	s, _ = s.With(Part{Source: "file", Services: []ServiceConfig{{Name: "api", Ports: []Port{{Name: "grpc", Number: 9090, Protocol: "grpc"}, {Name: "http", Number: 8080}}}}})
	svc := s.Service("api")
	if len(svc.Ports) != 2 || svc.Ports[0].Number != 8080 || svc.Ports[1].Protocol != ProtocolGRPC {
		t.Fatalf("declared: %+v", svc.Ports)
	}
	in := s.Instances("api")[0]
	if a, ok := svc.EndpointPort(in, svc.Ports[0]); !ok || a != in.Addr {
		t.Errorf("its own port: %v %v", a, ok)
	}
	if a, ok := svc.EndpointPort(in, svc.Ports[1]); !ok || a.String() != "10.0.0.1:9090" {
		t.Errorf("the other port: %v %v", a, ok)
	}
	dynamic := instance("api", "nomad", "10.0.0.3:23001")
	dynamic.PortName = "grpc"
	if a, ok := svc.EndpointPort(&dynamic, svc.Ports[1]); !ok || a != dynamic.Addr {
		t.Errorf("a named dynamic port: %v %v", a, ok)
	}
	if a, ok := svc.EndpointPort(&dynamic, svc.Ports[0]); ok {
		t.Errorf("an instance of the port grpc answers for http at %v", a)
	}
}

func TestLongestDefaultsWinArgumentByArgument(t *testing.T) {
	s, _ := Merge(Part{Source: "file",
		Services: []ServiceConfig{{Name: "batch-a"}, {Name: "api", Tuning: Tuning{Timeout: new(None)}}},
		Defaults: []Defaults{
			{Label: "*", Tuning: Tuning{Timeout: new(time.Second), Protocol: "http", Retry: &Retry{Times: new(7), AnyMethod: true}}},
			{Label: "batch-*", Tuning: Tuning{Timeout: new(time.Minute), Retry: &Retry{Budget: new(5.0)}}},
		}})
	b := s.Service("batch-a")
	if *b.Timeout != time.Minute || b.Protocol != ProtocolHTTP {
		t.Errorf("batch-a: %v %v", *b.Timeout, b.Protocol)
	}
	if *b.Retry.Times != 2 || b.Retry.AnyMethod || *b.Retry.Budget != 5 {
		t.Errorf("the narrower retry block does not replace the wider one whole: %+v", b.Retry)
	}
	if *s.Service("api").Timeout != None {
		t.Errorf("api: %v", *s.Service("api").Timeout)
	}
}

func TestProtocolOrder(t *testing.T) {
	in := instance("api", "consul", "10.0.0.1:8080")
	in.Protocol = "grpc"
	reg := Part{Source: "consul", Scope: "api", Instances: []Instance{in}}
	def := Part{Source: "file", Scope: "d", Defaults: []Defaults{{Label: "*", Tuning: Tuning{Protocol: "tcp"}}}}
	s, _ := Merge(reg, def)
	if p := s.Service("api"); p.Protocol != ProtocolGRPC || p.Ports[0].Protocol != ProtocolGRPC {
		t.Errorf("registry over defaults: %q", p.Protocol)
	}
	s, _ = s.With(Part{Source: "file", Services: []ServiceConfig{{Name: "api", Tuning: Tuning{Protocol: "http"}}}})
	if p := s.Service("api").Protocol; p != ProtocolHTTP {
		t.Errorf("block over registry: %q", p)
	}
}

func TestMembersPutInstancesIn(t *testing.T) {
	alloc := instance("api", "nomad", "10.0.0.2:8080")
	alloc.Workload = "a1"
	s, _ := Merge(
		Part{Source: "consul", Scope: "api", Instances: []Instance{instance("api", "consul", "10.0.0.1:8080"), alloc}},
		Part{Source: "members", Scope: "api", Members: []Member{{Service: "api", Node: "n1", Ports: []uint16{8080}}}},
	)
	got := s.Instances("api")
	if !got[0].In || got[1].In {
		t.Errorf("in: %v, an allocation that nobody spoke of: %v", got[0].In, got[1].In)
	}
	s, _ = s.With(Part{Source: "members", Scope: "api", Members: []Member{{Service: "api", Node: "n1", Addrs: []netip.Addr{netip.MustParseAddr("10.9.9.9")}}}})
	if s.Instances("api")[0].In {
		t.Error("a member at another address puts it in")
	}
}

func TestSourcesMapAndRestrict(t *testing.T) {
	old := instance("Old_API", "consul", "10.0.0.2:8080")
	old.Tags = []string{"v1"}
	rest := instance("Old_API", "consul", "10.0.0.3:8080")
	parts := []Part{
		{Source: "consul", Scope: "api", Instances: []Instance{instance("api", "consul", "10.0.0.1:8080")}},
		{Source: "nomad", Scope: "api", Instances: []Instance{instance("api", "nomad", "10.0.0.9:8080")}},
		{Source: "consul", Scope: "Old_API", Instances: []Instance{old, rest}},
	}
	s, conflicts := Merge(parts...)
	if len(s.Instances("api")) != 2 || len(conflicts) != 2 || s.Service("Old_API") != nil {
		t.Fatalf("without a block: %v, %v", s.Instances("api"), conflicts)
	}
	s, keys := s.With(Part{Source: "file", Services: []ServiceConfig{{Name: "api", Sources: []SourceRef{
		{Kind: "consul"}, {Kind: "consul", Service: "Old_API", Filter: "v1 in Service.Tags", Match: hasTag("v1")},
	}}}})
	got := s.Instances("api")
	if len(got) != 2 || got[0].Addr.Addr().String() != "10.0.0.1" || got[1].Addr.Addr().String() != "10.0.0.2" ||
		got[1].Service != "api" || got[1].Registered != "Old_API" {
		t.Fatalf("with a block: %+v", got)
	}
	if c := s.Conflicts(); len(c) != 1 {
		t.Errorf("the instance that no source takes is not reported: %v", c)
	}
	if len(keys) == 0 || s.Node("n1")[1] != got[1] {
		t.Errorf("keys %v, node %v", keys, s.Node("n1"))
	}
}

func TestAFilterThatNobodyCompiledTakesNothing(t *testing.T) {
	s, _ := Merge(Part{Source: "consul", Scope: "api", Instances: []Instance{instance("api", "consul", "10.0.0.1:8080")}},
		Part{Source: "file", Services: []ServiceConfig{{Name: "api", Sources: []SourceRef{{Kind: "consul", Filter: "x in Service.Tags"}}}}})
	if got := s.Instances("api"); len(got) != 0 {
		t.Errorf("%v", got)
	}
}

func TestHostileInstancesAreRefusedAlone(t *testing.T) {
	tags := make([]string, 10000)
	bad := map[string]func(*Instance){
		"1 MiB tag":        func(i *Instance) { i.Tags = []string{strings.Repeat("x", 1<<20)} },
		"NUL":              func(i *Instance) { i.Meta = map[string]string{"a": "\x00"} },
		"newline":          func(i *Instance) { i.Tags = []string{"a\nb"} },
		"star":             func(i *Instance) { i.Service = "*" },
		"dots":             func(i *Instance) { i.Service = "../api" },
		"dots in the node": func(i *Instance) { i.Node = "../n1" },
		"10k tags":         func(i *Instance) { i.Tags = tags },
		"zone":             func(i *Instance) { i.Addr = netip.MustParseAddrPort("[fe80::1%eth0]:80") },
		"no address":       func(i *Instance) { i.Addr = netip.AddrPort{} },
		"port 0":           func(i *Instance) { i.Addr = netip.MustParseAddrPort("10.0.0.1:0") },
		"no name":          func(i *Instance) { i.Service = "" },
		"long name":        func(i *Instance) { i.Service = ServiceName(strings.Repeat("a", 300)) },
	}
	for what, f := range bad {
		evil := instance("api", "consul", "10.0.0.66:80")
		f(&evil)
		s, conflicts := Merge(Part{Source: "consul", Scope: "api", Instances: []Instance{evil, instance("api", "consul", "10.0.0.1:8080")}})
		if len(s.Services()) != 1 || len(s.Instances("api")) != 1 || s.Instances("api")[0].Addr.Port() != 8080 {
			t.Errorf("%s: services %v, instances %v", what, s.Services(), s.Instances("api"))
		}
		if len(conflicts) != 1 || len(conflicts[0].What) > 500 || strings.ContainsAny(conflicts[0].What, "\x00\n") {
			t.Errorf("%s: conflicts %v", what, conflicts)
		}
	}
}

func TestDuplicatesAreKeptOnce(t *testing.T) {
	a, b := instance("api", "consul", "10.0.0.1:80"), instance("api", "consul", "10.0.0.1:80")
	b.ID = "other"
	s, conflicts := Merge(Part{Source: "consul", Scope: "api", Instances: []Instance{b, a}})
	if got := s.Instances("api"); len(got) != 1 || got[0].ID != a.ID || len(conflicts) != 1 {
		t.Errorf("%v, %v", got, conflicts)
	}
	s, conflicts = Merge(Part{Source: "consul", Scope: "api", Instances: []Instance{a}}, Part{Source: "nomad", Scope: "api", Instances: []Instance{instance("api", "nomad", "10.0.0.1:80")}})
	if got := s.Instances("api"); len(got) != 1 || len(conflicts) != 0 {
		t.Errorf("one instance in two registries: %v, %v", got, conflicts)
	}
}

func TestDestinations(t *testing.T) {
	allow := func(label string, from ...string) Intention {
		return Intention{Label: label, Rules: []Permission{{Action: ActionAllow, From: from}}}
	}
	deny := func(label string, from ...string) Intention {
		return Intention{Label: label, Rules: []Permission{{Action: ActionDeny, From: from}}}
	}
	s, _ := Merge(
		Part{Source: "file", Services: []ServiceConfig{{Name: "db"}, {Name: "batch-a"}},
			Intentions: []Intention{allow("api", "web"), deny("users", "web"), allow("batch-*", "w*"), deny("secret", "*"), allow("db", "ops")}},
		Part{Source: "retained", Retained: []Pair{{"web", "db"}}},
	)
	got := s.Destinations("web")
	if want := []ServiceName{"api", "batch-a", "db", "users"}; strings.Join(str(got), " ") != strings.Join(str(want), " ") {
		t.Errorf("Destinations(web) = %v, want %v", got, want)
	}
	if got := s.Destinations("other"); len(got) != 0 {
		t.Errorf("Destinations(other) = %v", got)
	}
}

func str(list []ServiceName) (out []string) {
	for _, n := range list {
		out = append(out, string(n))
	}
	return out
}
