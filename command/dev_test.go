package command

import (
	"bytes"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/kerege/kerege/config"
	"github.com/kerege/kerege/mesh"
)

// layoutOf translates one file's text with ports that are free but for those listed.
func layoutOf(t *testing.T, d *devLayouts, text string) (devLayout, mesh.Part) {
	t.Helper()
	m, diags := config.LoadBytes(map[string][]byte{"mesh.hcl": []byte(text)})
	if m == nil {
		t.Fatal(diags)
	}
	part := d.part(m)
	l, ok := d.get(m.Hash)
	if !ok {
		t.Fatal("the layout is not kept")
	}
	return l, part
}

func testLayouts(taken ...uint16) *devLayouts {
	ports := newDevPorts()
	ports.free = func(port uint16) bool {
		for _, x := range taken {
			if x == port {
				return false
			}
		}
		return true
	}
	return newDevLayouts(ports)
}

func devService(name string, ports ...int) string {
	var b strings.Builder
	fmt.Fprintf(&b, "service %q {\n  protocol = \"http\"\n", name)
	for i, p := range ports {
		fmt.Fprintf(&b, "  instance \"%c\" {\n    address = \"127.0.0.1\"\n    port    = %d\n    node    = \"laptop\"\n    meta    = { n = \"%d\" }\n  }\n", 'a'+i, p, i)
	}
	b.WriteString("}\n")
	return b.String()
}

func find(t *testing.T, l devLayout, key string) devPlace {
	t.Helper()
	for _, p := range l.places {
		if p.key() == key {
			return p
		}
	}
	t.Fatalf("no place %s in %+v", key, l.places)
	return devPlace{}
}

func TestDevPlacesInstancesBehindTheirEnvoys(t *testing.T) {
	l, part := layoutOf(t, testLayouts(22001, 21001), devService("web", 9001)+devService("api", 9002, 9003)+`
intention "api" {
  allow { from = ["web"] }
}
`)
	if len(l.places) != 3 || len(l.left) != 0 {
		t.Fatalf("%+v", l)
	}
	// The application stays; the mesh calls the Envoy.
	api := find(t, l, "api/b")
	if a := api.Accept[0]; a.App != netip.MustParseAddrPort("127.0.0.1:9003") || a.Listen.Port() < 22002 {
		t.Errorf("api/b accepts %+v", a)
	}
	snap, conflicts := mesh.Merge(part)
	if len(conflicts) > 0 {
		t.Error(conflicts)
	}
	registered := map[string]string{}
	for _, in := range snap.Node(devNode) {
		registered[string(in.Service)+"/"+in.Workload] = in.Addr.String()
		if in.Service == "api" && in.Workload == "b" && in.Meta["n"] != "1" {
			t.Errorf("an instance lost its metadata: %+v", in)
		}
	}
	for _, p := range l.places {
		if registered[p.key()] != p.Accept[0].Listen.String() {
			t.Errorf("%s is registered at %q and accepts at %s", p.key(), registered[p.key()], p.Accept[0].Listen)
		}
	}
	// Its port keeps the number that the files give it, not an Envoy's.
	if got := snap.Service("web").Ports[0].Number; got != 9001 {
		t.Errorf("web has port %d", got)
	}
	web := find(t, l, "web/a")
	want := devUpstream{Service: "api", Port: snap.Service("api").Ports[0].Number, Address: "http://127.0.0.1:21002", Local: 21002, Allowed: "yes"}
	if len(web.Upstreams) != 1 || web.Upstreams[0] != want {
		t.Errorf("web calls %+v, want %+v", web.Upstreams, want)
	}
	if u := api.Upstreams; len(u) != 1 || u[0].Service != "web" || u[0].Allowed != "no" {
		t.Errorf("api/b calls %+v", u)
	}
	if x := l.explicit()["web/a"]; len(x.Accept) != 1 || len(x.Upstreams) != 1 || x.Upstreams[0].LocalPort != 21002 {
		t.Errorf("the agent is told %+v", x)
	}
}

func TestDevPortsStay(t *testing.T) {
	d := testLayouts()
	before, _ := layoutOf(t, d, devService("web", 9001)+devService("api", 9002))
	after, _ := layoutOf(t, d, devService("a-new-one", 9000)+devService("api", 9002)+devService("web", 9001)+"intention \"web\" {\n  allow { from = [\"api\"] }\n}\n")
	for _, key := range []string{"web/a", "api/a"} {
		was, is := find(t, before, key), find(t, after, key)
		if was.Accept[0] != is.Accept[0] {
			t.Errorf("%s accepted at %v, now at %v", key, was.Accept, is.Accept)
		}
		for _, u := range was.Upstreams {
			found := false
			for _, v := range is.Upstreams {
				found = found || v.Service == u.Service && v.Local == u.Local
			}
			if !found {
				t.Errorf("%s called %+v, now %+v", key, u, is.Upstreams)
			}
		}
	}
	used := map[uint16]string{}
	for _, p := range after.places {
		for _, u := range p.Upstreams {
			if by := used[u.Local]; by != "" {
				t.Errorf("%s and %s share port %d", by, p.key(), u.Local)
			}
			used[u.Local] = p.key()
		}
	}
	again, _ := layoutOf(t, d, devService("web", 9001)+devService("api", 9002))
	if find(t, again, "web/a").Upstreams[0] != find(t, before, "web/a").Upstreams[0] {
		t.Error("the same files are another layout")
	}
}

func TestDevPortsOfOneInstance(t *testing.T) {
	l, part := layoutOf(t, testLayouts(), devService("web", 9001)+`
service "db" {
  port "sql" {
    port     = 5432
    protocol = "tcp"
  }
  port "admin" {
    port     = 8081
    protocol = "http"
  }
  instance "one" {
    address = "127.0.0.1"
    port    = 5432
  }
}
intention "db" {
  allow {
    from    = ["web"]
    methods = ["GET"]
  }
}
`)
	db := find(t, l, "db/one")
	apps := map[uint16]bool{}
	for _, a := range db.Accept {
		apps[a.App.Port()] = true
	}
	if len(db.Accept) != 2 || !apps[5432] || !apps[8081] {
		t.Errorf("db accepts %+v", db.Accept)
	}
	snap, conflicts := mesh.Merge(part)
	if len(conflicts) > 0 {
		t.Error(conflicts)
	}
	svc := snap.Service("db")
	for _, port := range svc.Ports {
		n := 0
		for _, in := range snap.Instances("db") {
			if at, ok := svc.EndpointPort(in, port); ok {
				n++
				if at.Port() < 22001 {
					t.Errorf("port %s is called at %s, past the Envoy", port, at)
				}
			}
		}
		if n != 1 {
			t.Errorf("port %s has %d endpoints", port, n)
		}
	}
	for _, u := range find(t, l, "web/a").Upstreams {
		switch u.Name {
		case "sql":
			if u.Allowed != "no" || strings.HasPrefix(u.Address, "http") {
				t.Errorf("%+v", u)
			}
		case "admin":
			if u.Allowed != "some" || !strings.HasPrefix(u.Address, "http://") {
				t.Errorf("%+v", u)
			}
		}
	}
}

func TestDevLeavesOutWhatItCannotRun(t *testing.T) {
	text := `service "far" {
  instance "one" {
    address = "10.0.0.7"
    port    = 80
    node    = "dev"
  }
}
`
	l, part := layoutOf(t, testLayouts(), text+devService("many", 9001, 9002, 9003, 9004, 9005, 9006, 9007)+devService("web", 9010))
	if len(l.places) != maxDevEnvoys {
		t.Errorf("%d Envoys", len(l.places))
	}
	find(t, l, "web/a") // one of each service comes first
	left := strings.Join(l.left, "\n")
	for _, want := range []string{"far/one: 10.0.0.7:80 is not on loopback", "many/f: dev runs at most 6", "many/g: dev runs at most 6"} {
		if !strings.Contains(left, want) {
			t.Errorf("%q does not say %q", left, want)
		}
	}
	// What is left out is on no node here, so that nobody waits for an Envoy of it.
	for _, in := range part.Instances {
		if in.Workload == "" && in.Node != "" {
			t.Errorf("%s is placed on %q", in.ID, in.Node)
		}
	}
}

func TestDevSampleIsAMesh(t *testing.T) {
	s := &devSample{ports: map[string]uint16{"web": 1, "v1": 2, "v2": 3}}
	text, err := s.text()
	if err != nil {
		t.Fatal(err)
	}
	l, _ := layoutOf(t, testLayouts(), string(text))
	if u := find(t, l, "web/web").Upstreams; len(u) != 1 || u[0].Allowed != "yes" {
		t.Errorf("%+v", u)
	}
	if formatted := config.Format("sample.hcl", text); !bytes.Equal(formatted, text) {
		t.Errorf("the sample is not as kerege fmt writes it:\n%s", formatted)
	}
}

func TestDevSaysWhatIsMissing(t *testing.T) {
	var out, errOut bytes.Buffer
	t.Setenv("ENVOY", "/nosuch/envoy")
	if code := Run([]string{"dev"}, strings.NewReader(""), &out, &errOut); code != exitError || !strings.Contains(errOut.String(), "make tools") {
		t.Errorf("exit %d: %s", code, errOut.String())
	}
	errOut.Reset()
	if code := Run([]string{"dev", "-log-level", "loud"}, strings.NewReader(""), &out, &errOut); code != exitError || !strings.Contains(errOut.String(), "loud is no level") {
		t.Errorf("exit %d: %s", code, errOut.String())
	}
}
