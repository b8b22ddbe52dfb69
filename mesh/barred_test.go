package mesh

import (
	"net/netip"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// An address that means another host, or none, to whoever calls it is given to
// nobody, whatever mtls says, and is no placement on its node.
func TestAddressesThatNobodyElseCanCall(t *testing.T) {
	for _, mode := range []MTLS{MTLSStrict, MTLSPermissive, MTLSDisabled} {
		for _, text := range []string{"127.0.0.1", "127.9.9.9", "0.0.0.0", "224.0.0.1", "240.0.0.7", "255.255.255.255", "::", "::1", "ff02::1", "fe80::1", "::ffff:127.0.0.1", "0.0.0.5", "169.254.169.254", "::ffff:169.254.169.254", "fd00:ec2::254", "fd6b:6572:6567::1"} {
			bad := at(1, 8080, "http")
			bad.Addr = netip.AddrPortFrom(netip.MustParseAddr(text), 8080)
			s, conflicts := Merge(Part{Source: "file", Mesh: &Config{MTLS: mode}}, joined(1, 2), registered(bad, at(2, 8080, "http")))
			var barred []string
			for _, in := range s.Instances("api") {
				if in.Barred != "" {
					barred = append(barred, in.Barred)
				}
				if in.Barred != "" && in.In {
					t.Errorf("%s is in the mesh", text)
				}
			}
			want := "its address " + bad.Addr.Addr().String() + " cannot be called from another host"
			if len(barred) != 1 || barred[0] != want || len(s.Node("vm-1")) != 0 || s.Barred("vm-1", "api", "") != want || len(conflicts) != 0 {
				t.Errorf("%s: barred %q, placed on its node %v, conflicts %v", text, barred, s.Node("vm-1"), conflicts)
			}
			if len(s.Node("vm-2")) != 1 || s.Barred("vm-2", "api", "") != "" {
				t.Errorf("%s keeps another instance out", text)
			}
		}
	}
	here := at(1, 8080, "")
	here.Addr = netip.MustParseAddrPort("127.0.0.1:8080")
	if s, _ := Merge(Part{Source: "file", Mesh: &Config{OneHost: true}}, registered(here)); s.Instances("api")[0].Barred != "" {
		t.Error("loopback is barred where all is on one host")
	}
	if !Callable(netip.MustParseAddr("10.0.0.1")) || !Callable(netip.MustParseAddr("2001:db8::1")) || Callable(netip.Addr{}) {
		t.Error("Callable")
	}
}

func TestServicesThatArePinned(t *testing.T) {
	alloc := at(3, 8080, "")
	alloc.Source, alloc.Workload, alloc.Job = "nomad", "a1", "api"
	stray := at(9, 8080, "")
	nowhere := at(4, 8080, "")
	nowhere.Node = ""
	forged := at(5, 8080, "")
	forged.Job = "api" // of Consul: it has no jobs
	members := joined(1, 2, 5, 9)
	members.Members = append(members.Members, Member{Service: "api", Node: "vm-3", Workload: "a1"})
	parts := []Part{members, registered(at(1, 8080, ""), at(2, 8080, ""), nowhere, forged, stray), {Source: "nomad", Scope: "api", Instances: []Instance{alloc}}}
	for what, c := range map[string]struct {
		block    *Places
		defaults []Defaults
		in       string
	}{
		"without":        {nil, nil, "vm-1 vm-2 vm-3 vm-5 vm-9"},
		"nodes":          {&Places{Nodes: []string{"vm-1"}}, nil, "vm-1"},
		"a pattern":      {&Places{Nodes: []string{"vm-9*", "vm-2*"}}, nil, "vm-2 vm-9"},
		"jobs":           {&Places{Jobs: []string{"ap*"}}, nil, "vm-3"},
		"nodes and jobs": {&Places{Nodes: []string{"vm-1"}, Jobs: []string{"api"}}, nil, "vm-1 vm-3"},
		"all":            {&Places{Nodes: []string{"*"}}, nil, "vm-1 vm-2 vm-3 vm-5 vm-9"},
		"nowhere":        {&Places{Nodes: []string{}}, nil, ""},
		"by default":     {nil, []Defaults{{Label: "*", Tuning: Tuning{Places: &Places{Nodes: []string{}}}}}, ""},
		"the narrowest": {nil, []Defaults{{Label: "*", Tuning: Tuning{Places: &Places{Nodes: []string{}}}},
			{Label: "api", Tuning: Tuning{Places: &Places{Nodes: []string{"vm-1"}}}}}, "vm-1"},
		"the block before the defaults, whole": {&Places{Nodes: []string{"vm-1"}}, []Defaults{{Label: "*", Tuning: Tuning{Places: &Places{Jobs: []string{"api"}}}}}, "vm-1"},
	} {
		s, _ := Merge(append(parts, Part{Source: "file", Defaults: c.defaults, Services: []ServiceConfig{{Name: "api", Tuning: Tuning{Places: c.block}}}})...)
		var in []string
		for _, x := range s.Instances("api") {
			if x.In {
				in = append(in, x.Node)
			}
			if x.Node != "" && x.In == (len(s.Node(x.Node)) == 0) {
				t.Errorf("%s: %s is in %v, and its node has %v", what, x.Node, x.In, s.Node(x.Node))
			}
		}
		if got := strings.Join(in, " "); got != c.in {
			t.Errorf("%s: in are %s, want %s", what, got, c.in)
		}
		warned := strings.Contains(text(s.Conflicts()), "All instances of api that are registered (6) are kept from callers: it is pinned to")
		if warned != (c.in == "") {
			t.Errorf("%s: warnings %v", what, s.Conflicts())
		}
	}
	s, _ := Merge(append(parts, Part{Source: "file", Services: []ServiceConfig{{Name: "api",
		Tuning: Tuning{Places: &Places{Nodes: []string{"vm-1"}, Jobs: []string{}, Pos: Pos{"mesh.hcl", 7, 3}}}}}})...)
	if got, want := s.Barred("vm-9", "api", ""), `it is on vm-9, and its service is pinned to nodes = ["vm-1"], jobs = [] (mesh.hcl:7)`; got != want {
		t.Errorf("the reason is %s", got)
	}
}

func text(list []Conflict) (s string) {
	for _, c := range list {
		s += c.What + "\n"
	}
	return s
}

// A pin is never got around: whatever is registered and whoever has joined, an
// instance elsewhere is not in, and does not take the place of one that may be.
func TestAPinHoldsWhateverIsRegistered(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		good := at(1, 8080, "")
		list := []Instance{good}
		for range rapid.IntRange(0, 4).Draw(t, "n") {
			in := at(byte(rapid.IntRange(2, 3).Draw(t, "node")), 8080, "")
			in.Addr = one(t, good.Addr, in.Addr)
			in.ID = one(t, good.ID, "x")
			in.Datacenter = one(t, "", "dc0")
			list = append(list, in)
		}
		s, _ := Merge(joined(1, 2, 3), registered(list...),
			Part{Source: "file", Services: []ServiceConfig{{Name: "api", Tuning: Tuning{Places: &Places{Nodes: []string{"vm-1"}}}}}})
		if len(s.Node("vm-1")) != 1 || len(s.Node("vm-2"))+len(s.Node("vm-3")) != 0 {
			t.Fatalf("placed: %v %v %v", s.Node("vm-1"), s.Node("vm-2"), s.Node("vm-3"))
		}
		for _, in := range s.Instances("api") {
			if in.In != (in.Node == "vm-1") {
				t.Fatalf("%+v", in)
			}
		}
	})
}
