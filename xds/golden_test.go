package xds

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/plan"
	"github.com/kerege/kerege/xds/delta"
)

var update = flag.Bool("update", false, "write the golden files anew")

func at(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func pointer[T any](v T) *T { return &v }

// cases are plans that together use every word that this room knows.
func cases() map[string]*plan.Proxy {
	permissive := testInbound("web", 8080, 80, mesh.ProtocolUnknown, testPolicy("web", 80, "edge", "batch-*"))
	permissive.MTLS = mesh.MTLSPermissive
	permissive.Policy.Plaintext = true
	bare := testInbound("web", 9102, 9102, mesh.ProtocolHTTP, testPolicy("web", 9102))
	bare.MTLS, bare.Policy.Default = mesh.MTLSDisabled, mesh.ActionAllow

	mixed := testUpstream("mixed", 7000, mesh.ProtocolHTTP, at("10.0.0.1:7000"), at("10.0.0.2:7000"))
	mixed.Ports[0].Clusters[0].MTLS = mesh.MTLSPermissive
	mixed.Ports[0].Clusters[0].Endpoints.Groups[0].Endpoints[1].In = false
	mixed.Ports[0].Clusters[0].Endpoints.Groups[0].Endpoints[1].Health = mesh.Draining

	any := testProxy("web", []*plan.Inbound{permissive, bare},
		testUpstream("api", 8080, mesh.ProtocolHTTP, at("10.0.0.3:8080"), at("[fd00::3]:8080")),
		testUpstream("db", 5432, mesh.ProtocolTCP, at("10.0.0.4:5432")),
		testUpstream("maybe", 9000, mesh.ProtocolUnknown, at("10.0.0.5:9000")), mixed)
	any.Outside.Mode = mesh.OutboundAny

	explicit := testProxy("web", []*plan.Inbound{testInbound("web", 21000, 80, mesh.ProtocolHTTP, testPolicy("web", 80, "edge"))},
		testUpstream("api", 8080, mesh.ProtocolGRPC, at("127.0.0.1:21001")))
	explicit.Node = plan.Node{
		ID: explicit.Node.ID, Accept: []plan.Accept{{Listen: at("127.0.0.1:21000"), App: at("127.0.0.1:8080")}},
		Explicit: []plan.Explicit{{Service: "api", Port: 8080, LocalPort: 5001}, {Service: "secret", Port: 80, LocalPort: 5002}},
	}
	none := testProxy("lonely", nil)
	none.Node.NoIPv6 = true
	checked := testProxy("web", []*plan.Inbound{
		testInbound("web", 8080, 80, mesh.ProtocolHTTP, testPolicy("web", 80, "edge")),
		testInbound("web", 8081, 81, mesh.ProtocolUnknown, testPolicy("web", 81)),
		testInbound("web", 8082, 82, mesh.ProtocolUnknown, testPolicy("web", 82)), testInbound("web", 8083, 83, mesh.ProtocolGRPC, testPolicy("web", 83)),
		testInbound("web", 8084, 84, mesh.ProtocolTCP, testPolicy("web", 84)), testInbound("web", 8085, 85, mesh.ProtocolTCP, testPolicy("web", 85))})
	checked.Inbound[2].MTLS, checked.Inbound[3].MTLS, checked.Inbound[4].MTLS = mesh.MTLSPermissive, mesh.MTLSDisabled, mesh.MTLSPermissive
	checked.Node.ID.Workload, checked.Node.Bridge = "a1", []netip.Addr{netip.MustParseAddr("172.26.64.1"), netip.MustParseAddr("fd00::1")}
	for _, in := range checked.Inbound {
		checked.Checks = append(checked.Checks, mesh.Probe{Port: in.Number, Method: "GET", Path: "/health?full=1"},
			mesh.Probe{Port: in.Number, Method: "GET", Path: "/health", From: netip.MustParseAddr("10.0.0.2")},
			mesh.Probe{Port: in.Number, Method: "POST", Path: "/check", From: netip.MustParseAddr("172.26.64.1")})
	}
	return map[string]*plan.Proxy{"checks": checked, "capture": any, "explicit": explicit, "lonely": none, "routes": testProxy("web", nil, routed()), "tcp": tcpCase(), "direct": directCase()}
}

// directCase is services whose instances are dialed at their own addresses.
func directCase() *plan.Proxy {
	here := []plan.Direct{{Addr: at("10.0.0.1:8080"), In: true}, {Addr: at("10.0.0.2:8080"), Held: true}}
	var list []*plan.Upstream
	for i, protocol := range []mesh.Protocol{mesh.ProtocolHTTP, mesh.ProtocolTCP, mesh.ProtocolUnknown} {
		u := testUpstream([]string{"api", "db", "maybe"}[i], uint16(8080+i), protocol, at("10.0.0.1:8080"))
		for _, d := range here {
			u.Ports[0].Direct = append(u.Ports[0].Direct, plan.Direct{Addr: netip.AddrPortFrom(d.Addr.Addr(), uint16(8080+i)), In: d.In, Held: d.Held})
		}
		u.Ports[0].Virtual = nil
		list = append(list, u)
	}
	mixed := testUpstream("mixed", 8090, mesh.ProtocolUnknown, at("10.0.0.1:8090"))
	mixed.Ports[0].Clusters[0].MTLS = mesh.MTLSPermissive
	mixed.Ports[0].Direct = []plan.Direct{{Addr: at("10.0.0.3:8090")}, {Addr: at("[fd00::1]:8090"), In: true}}
	p := testProxy("web", nil, append(list, mixed)...)
	p.Node.InboundPort = 0
	return p
}

func tcpCase() *plan.Proxy {
	some := testPolicy("db", 5432, "web", "admin")
	butOne := testPolicy("db", 5433)
	butOne.AnyCaller, butOne.Deniers = true, []mesh.Identity{testIdentity("evil")}
	return testProxy("db", []*plan.Inbound{
		testInbound("db", 5432, 5432, mesh.ProtocolTCP, some),
		testInbound("db", 5433, 5433, mesh.ProtocolTLS, butOne),
		testInbound("db", 5434, 5434, mesh.ProtocolTCP, testPolicy("db", 5434)),
	})
}

func routed() *plan.Upstream {
	u := testUpstream("api", 8080, mesh.ProtocolHTTP, at("10.0.0.3:8080"))
	p := &u.Ports[0]
	c := p.Clusters[0]
	c.Balance = mesh.Balance{Policy: "maglev", Hash: &mesh.Hash{Header: "X-User"}}
	c.Limits = mesh.Limits{MaxConnections: pointer(uint32(10)), MaxPendingRequests: pointer(uint32(0)), MaxConcurrentRequests: pointer(uint32(20))}
	v2 := *c
	v2.Name, v2.Subset = "api.v2:8080", "v2"
	v2.Outlier.Off = true
	v2.Balance = mesh.Balance{Policy: "least_request", SlowStart: pointer(30 * time.Second)}
	v2.Endpoints = &plan.Endpoints{Cluster: v2.Name, Cause: c.Endpoints.Cause}
	p.Clusters = []*plan.Cluster{&v2, c}
	to := []plan.Weighted{{Cluster: "api.v2:8080", Weight: 1000}, {Cluster: "api:8080", Weight: 9000}}
	byMethod := []mesh.Match{{Path: "/write", Methods: []string{"POST", "PUT"}}, {Path: "/read", Methods: []string{"GET"}}}
	retry := plan.Retry{Times: 2, On: []string{"connect-failure", "refused-stream", "reset", "503"}, PerTry: time.Second, Backoff: 25 * time.Millisecond, BackoffMax: time.Second}
	p.Route.Rules = append([]plan.RouteRule{
		{
			Name: "checkout", To: to, Timeout: 3 * time.Second, Idle: mesh.None, Retry: retry,
			Matches: []mesh.Match{
				{PathPrefix: "/v1/checkout/", Methods: []string{"POST", "GET"}, Headers: []mesh.ValueMatch{
					{Name: "X-Tenant", In: []string{"gold", "plat.num"}, IgnoreCase: true}, {Name: "x-old", Exact: pointer("yes"), Invert: true},
					{Name: "x-here", Present: pointer(true)}, {Name: "Host", Suffix: pointer(".mesh")},
				}},
				{Path: "/exact", Query: []mesh.ValueMatch{{Name: "q", Prefix: pointer("a")}, {Name: "r", Present: pointer(false)}}},
				{GRPCService: "shop.Cart"},
				{PathRegex: "/items/[0-9]+"},
			},
			RequestHeaders:  &mesh.HeaderOps{Set: map[string]string{"x-route": "100%", "a-first": ""}, Add: map[string]string{"x-more": "1"}, Remove: []string{"X-Debug"}},
			ResponseHeaders: &mesh.HeaderOps{Set: map[string]string{"x-by": "us"}},
			Rewrite:         &mesh.Rewrite{PathPrefix: "/pay", Host: "pay.internal"},
		},
		{Name: "one-method", Matches: byMethod, To: to, Retry: plan.Retry{Times: 1, On: mesh.DefaultRetryOn(), Safe: true}},
		{Name: "moved", Matches: []mesh.Match{{PathPrefix: "/old"}}, Redirect: &mesh.Redirect{Code: 308, Scheme: "https", Host: "new.example", Port: 8443, PathPrefix: "/"}},
		{Name: "gone", Matches: []mesh.Match{{PathPrefix: "/gone"}}, Respond: &mesh.Respond{Status: 410, Body: "gone for good"}},
		{Name: "empty", Matches: []mesh.Match{{PathPrefix: "/empty"}}, To: []plan.Weighted{{Cluster: "api:8080"}}},
	}, p.Route.Rules...)
	return u
}

func TestGolden(t *testing.T) {
	kept := map[string]bool{}
	for name, p := range cases() {
		t.Run(name, func(t *testing.T) {
			set, err := NewTranslator().Translate(p)
			if err != nil {
				t.Fatal(err)
			}
			path := filepath.Join("testdata", name+".json")
			kept[path] = true
			golden(t, path, render(t, set))
		})
	}
	files, _ := filepath.Glob("testdata/*.json")
	for _, f := range files {
		if !kept[f] {
			t.Errorf("%s belongs to no case", f)
		}
	}
}

func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs (go test ./xds -update shows how, in git diff)", path)
	}
}

func render(t *testing.T, set *delta.Set) []byte {
	t.Helper()
	var out bytes.Buffer
	for _, g := range set.Groups {
		fmt.Fprintf(&out, "=== group %s\n", g.Key)
		for _, r := range g.Resources {
			m, err := r.Body.UnmarshalNew()
			if err != nil {
				t.Fatal(err)
			}
			text, err := protojson.MarshalOptions{UseProtoNames: true}.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(&out, "--- %s %s\n", r.Type[len("type.googleapis.com/"):], r.Name)
			if err := json.Indent(&out, text, "", " "); err != nil {
				t.Fatal(err)
			}
			out.WriteByte('\n')
		}
	}
	return out.Bytes()
}

// Envoy takes another source for another provider, and waits for secrets anew.
func TestTheSourceOfSecretsNeverChanges(t *testing.T) {
	w := &writer{}
	got := hex.EncodeToString(w.any(agentSDS()).Value)
	const want = "220030021218080322100a0e0a0c6b65726567652d6167656e7438014002"
	if got != want {
		t.Errorf("the source of secrets is %s, was %s: every Envoy that runs would wait for its certificate anew", got, want)
	}
}

func TestEveryResourcePassesItsValidation(t *testing.T) {
	for name, p := range cases() {
		set, err := NewTranslator().Translate(p)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for _, g := range set.Groups {
			for i, r := range g.Resources {
				if i > 0 && (g.Resources[i-1].Type > r.Type || g.Resources[i-1].Type == r.Type && g.Resources[i-1].Name >= r.Name) {
					t.Errorf("%s: group %s is not sorted, or has %s twice", name, g.Key, r.Name)
				}
				n += valid(t, name+" "+r.Name, r.Body)
			}
		}
		if n < 5 {
			t.Errorf("%s: only %d messages were judged", name, n)
		}
	}
}

// valid judges a message and every one packed into it.
func valid(t *testing.T, where string, packed *anypb.Any) int {
	t.Helper()
	m, err := packed.UnmarshalNew()
	if err != nil {
		t.Errorf("%s: %v", where, err)
		return 0
	}
	if v, ok := m.(interface{ ValidateAll() error }); ok {
		if err := v.ValidateAll(); err != nil {
			t.Errorf("%s: %v", where, err)
		}
	}
	n := 1
	var walk func(protoreflect.Message)
	walk = func(m protoreflect.Message) {
		if inner, ok := m.Interface().(*anypb.Any); ok {
			n += valid(t, where, inner)
			return
		}
		m.Range(func(f protoreflect.FieldDescriptor, v protoreflect.Value) bool {
			switch {
			case f.IsMap():
				v.Map().Range(func(_ protoreflect.MapKey, v protoreflect.Value) bool {
					if f.MapValue().Message() != nil {
						walk(v.Message())
					}
					return true
				})
			case f.Message() != nil && f.IsList():
				for i := range v.List().Len() {
					walk(v.List().Get(i).Message())
				}
			case f.Message() != nil:
				walk(v.Message())
			}
			return true
		})
	}
	walk(m.ProtoReflect())
	return n
}

func TestEqualPlansGiveEqualBytes(t *testing.T) {
	for name := range cases() {
		var first *delta.Set
		shared := NewTranslator()
		for i := range 100 {
			tr := NewTranslator()
			if i%2 == 0 {
				tr = shared
			}
			set, err := tr.Translate(cases()[name])
			if err != nil {
				t.Fatal(err)
			}
			if first == nil {
				first = set
				continue
			}
			for j, g := range set.Groups {
				for k, r := range g.Resources {
					was := first.Groups[j].Resources[k]
					if r.Version != was.Version || !proto.Equal(r.Body, was.Body) || !bytes.Equal(r.Body.Value, was.Body.Value) {
						t.Fatalf("%s: %s differs the %d. time", name, r.Name, i+1)
					}
				}
			}
		}
	}
}
