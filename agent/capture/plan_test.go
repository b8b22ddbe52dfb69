package capture

import (
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func plans() map[string]Plan {
	ap, a := netip.MustParseAddrPort, netip.MustParseAddr
	host := PlannedHost{Backend: "nft", Tracked: 0, TrackMax: 65536, Chains: 6, Jumps: 3, Routes: 1, Families: 2}
	web := PlannedWorkload{Name: "web", Who: "www-data (uid 33)", FoundBy: "consul + listening socket", Mode: "permissive", Ports: []uint16{8080},
		Callers: []Caller{{Addr: a("10.0.0.3"), Host: "vm-3", Connections: 4}, {Addr: a("10.0.0.4"), Connections: 10}}, Open: 22,
		Outside: []Destination{{ap("52.1.2.3:443"), "api.stripe.com", 1}, {ap("10.0.9.4:5432"), "", 3}}, DNS: "port 53 of uid 33 only"}
	ok := []Check{{"workloads", true}, {"callers", true}, {"conntrack", true}, {"tables", true}}
	never := neverText(Config{})
	first := Plan{Workloads: []PlannedWorkload{web}, Never: never, Operator: &Session{ap("10.0.0.12:22"), ap("10.0.0.5:51234")}, Host: host, Checks: ok}
	strict := first
	strict.Workloads = []PlannedWorkload{web}
	strict.Workloads[0].Mode = "strict"
	strict.Checks = nil
	strict.check("workloads", true)
	strict.callers(Known{Accept: 1})
	quiet := first
	quiet.Operator, quiet.SSH = nil, 2
	quiet.Host = PlannedHost{Backend: "legacy", Foreign: 3, Warning: "1 rules are in iptables-nft", Tracked: 940, TrackMax: 65536, Tracking: true, Settled: true, Families: 1}
	quiet.Workloads = []PlannedWorkload{{Name: "batch", Who: "slice batch.slice", Open: -1, DNS: "as before"}, {Name: "api", Who: "api (uid 7)", Ports: []uint16{80, 81}, DNS: "as before", Notes: []string{"nothing listens on :81 now"}}}
	return map[string]Plan{"first": first, "strict": strict, "quiet": quiet}
}

func TestThePageOfAPlan(t *testing.T) {
	for name, p := range plans() {
		t.Run(name, func(t *testing.T) {
			var text strings.Builder
			if err := p.WriteText(&text); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join("testdata", name+".plan")
			if *update {
				if err := os.WriteFile(path, []byte(text.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if text.String() != string(want) {
				t.Errorf("got\n%s\nwant\n%s", text.String(), want)
			}
			if _, err := json.Marshal(p); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestCheckNamesWhatIsWrongAndWhatMendsIt(t *testing.T) {
	for _, test := range []struct {
		name, want string
		change     func(c *Config)
	}{
		{"root", "runs as root (uid 0)", func(c *Config) { c.Workloads[0].UIDs = []uint32{0} }},
		{"nobody", "nothing says which program", func(c *Config) { c.Workloads[0].UIDs = nil }},
		{"twice", "it is named twice", func(c *Config) { c.Workloads[0].Slice = "web.slice" }},
		{"a unit", "is no slice", func(c *Config) { c.Workloads[0].UIDs, c.Workloads[0].Slice = nil, "system.slice/web.service" }},
		{"outside", "is no slice", func(c *Config) { c.Workloads[0].UIDs, c.Workloads[0].Slice = nil, "../web.slice" }},
		{"one port", "port 8080 belongs to workload web too", func(c *Config) { c.Workloads[1].Ports = []uint16{8080} }},
		{"one user", "user 33 is workload web too", func(c *Config) { c.Workloads[1].UIDs = []uint32{33} }},
		{"Envoy's user", "also runs Envoy", func(c *Config) { c.EnvoyUIDs = []uint32{33} }},
		{"one capture port", "capture port 15001 belongs to", func(c *Config) { c.Workloads[1].OutboundPort = 15001 }},
		{"no Envoy", "no port of an Envoy", func(c *Config) { c.Workloads[0].OutboundPort, c.Workloads[0].InboundPort = 0, 0 }},
	} {
		t.Run(test.name, func(t *testing.T) {
			c := other()
			if stops := c.Check(); len(stops) > 0 {
				t.Fatalf("the sample is wrong: %v", stops)
			}
			test.change(&c)
			stops := c.Check()
			if len(stops) != 1 || !strings.Contains(stops[0].Error(), test.want) || stops[0].Mend == "" {
				t.Errorf("got %v, want %q", stops, test.want)
			}
		})
	}
	if _, err := LookupUser("kerege-nobody-has-this-name"); err == nil || !strings.Contains(err.Error(), "does not exist on this host") {
		t.Errorf("got %v", err)
	}
	if uid, err := LookupUser("root"); err != nil || uid != 0 {
		t.Errorf("root is %d, %v", uid, err)
	}
}

func TestSlicePath(t *testing.T) {
	for in, want := range map[string]string{"web.slice": "web.slice", "kerege-web.slice": "kerege.slice/kerege-web.slice",
		"a-b-c.slice": "a.slice/a-b.slice/a-b-c.slice", "-.slice": "-.slice", "x/y.slice": "x/y.slice"} {
		if got := SlicePath(in); got != want {
			t.Errorf("%s: %s, want %s", in, got, want)
		}
	}
}

func TestParseSockets(t *testing.T) {
	const text = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000    33        0 4711 1 0 100 0 0 10 0
   1: 00000000000000000000000001000000:0016 B80D0120000000000000000001000000:C822 01 00000000:00000000 00:00000000 00000000     0        0 4712 1
   2: 0000000000000000FFFF00000C00000A:1F90 0000000000000000FFFF00000500000A:C822 01 00000000:00000000 00:00000000 00000000     0        0 4713 1
`
	got := parseSockets(text)
	if len(got) != 3 || got[0].local.String() != "127.0.0.1:8080" || got[0].uid != 33 || got[0].inode != 4711 || got[0].state != listen ||
		got[1].local.String() != "[::1]:22" || got[1].peer.String() != "[2001:db8::1]:51234" || got[2].peer.String() != "10.0.0.5:51234" {
		t.Errorf("%+v", got)
	}
}

func FuzzSockets(f *testing.F) {
	f.Add("0: 0100007F:1F90 00000000:0000 0A 0 0 0 33 0 4711")
	f.Fuzz(func(_ *testing.T, text string) { parseSockets(text) })
}
