package nomad

import (
	"context"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hashicorp/nomad/api"

	"github.com/kerege/kerege/mesh"
)

func reg(id, name, label string, port int) *api.ServiceRegistration {
	return &api.ServiceRegistration{ID: "_nomad-task-" + id + "-group-web-" + name + "-" + label, ServiceName: name, Namespace: "default", NodeID: "n",
		Datacenter: "dc1", AllocID: id, Address: "10.1.0.1", Port: port, Tags: []string{"b", "a"}}
}

func TestConvert(t *testing.T) {
	allocs := map[string]*alloc{"a1": {allocation: allocation{NodeName: "vm-1", TaskGroup: "web"}}, "gone": {gone: true}}
	nodes := map[string]*node{"n": {Name: "vm-9", Meta: map[string]string{"rack": "r1"}}}
	odd := reg("a2", "api", "http", 70000)
	odd.Address, odd.NodeID = "db.example.com", "other"
	got := convert([]*api.ServiceRegistration{reg("a1", "api", "http-api-x", 80), reg("a1", "api", "admin", 81), reg("gone", "api", "http", 80), odd}, allocs, nodes)
	for i, want := range []struct{ node, port, addr string }{{"vm-1", "http-api-x", "10.1.0.1:80"}, {"vm-1", "admin", "10.1.0.1:81"}, {"vm-9", "", "10.1.0.1:80"}, {"other", "", "invalid AddrPort"}} {
		if in := got[i]; in.Node != want.node || in.PortName != want.port || in.Addr.String() != want.addr || !slices.Equal(in.Tags, []string{"a", "b"}) || in.Weight != 1 {
			t.Errorf("%d: %+v", i, in)
		}
	}
	if got[0].NodeMeta["rack"] != "r1" || got[0].Locality.Region != "dc1" || got[0].Workload != "a1" {
		t.Errorf("%+v", got[0])
	}
}

func TestMetaOfACanary(t *testing.T) {
	a := &alloc{specs: map[string]spec{"api": {Meta: map[string]string{"track": "stable"}, CanaryMeta: map[string]string{"track": "canary"}}}}
	if a.meta("api")["track"] != "stable" || a.meta("other") != nil {
		t.Error(a.meta("api"), a.meta("other"))
	}
	a.DeploymentStatus = &struct{ Canary bool }{true}
	if a.meta("api")["track"] != "canary" {
		t.Error(a.meta("api"))
	}
}

func TestHealthOfAnAllocation(t *testing.T) {
	for _, c := range []struct {
		client, desired string
		check           mesh.Health
		want            mesh.Health
	}{
		{"running", "run", mesh.Healthy, mesh.Healthy},
		{"running", "run", mesh.Unhealthy, mesh.Unhealthy},
		{"running", "stop", mesh.Healthy, mesh.Draining},
		{"running", "evict", mesh.Unhealthy, mesh.Draining},
		{"failed", "run", mesh.Healthy, mesh.Unhealthy},
		{"lost", "stop", mesh.Healthy, mesh.Unhealthy},
		{"unknown", "run", mesh.Healthy, mesh.Healthy}, // its client is out of touch: it may well serve
	} {
		a := &alloc{allocation: allocation{ClientStatus: c.client, DesiredStatus: c.desired}, results: map[string]mesh.Health{"api": c.check}}
		if got := a.healthOf("api"); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
}

// A service half in Nomad and half in Consul is one service.
func TestHalfInNomadHalfInConsul(t *testing.T) {
	half := mesh.Part{Source: "nomad", Scope: "api", Instances: convert([]*api.ServiceRegistration{reg("a1", "api", "http", 8080)}, nil, nil)}
	other := mesh.Part{Source: "consul", Scope: "api", Instances: []mesh.Instance{{Service: "api", ID: "api-1", Source: "consul", Registered: "api", Datacenter: "dc1",
		Node: "vm-2", Addr: netip.MustParseAddrPort("10.1.0.2:8080"), Weight: 1, Locality: mesh.Locality{Region: "dc1"}}}}
	for _, parts := range [][]mesh.Part{{half, other}, {other, half}} {
		snap, conflicts := mesh.Merge(parts...)
		svc, list := snap.Service("api"), snap.Instances("api")
		if len(conflicts) > 0 || svc == nil || len(list) != 2 || len(svc.Ports) != 1 || svc.Ports[0].Number != 8080 {
			t.Fatal(conflicts, svc, list)
		}
		for _, in := range list {
			if to, ok := svc.EndpointPort(in, svc.Ports[0]); !ok || to != in.Addr {
				t.Errorf("%s of %s is called at %s", in.ID, in.Source, to)
			}
		}
		rest, _ := snap.With(mesh.Part{Source: "consul", Scope: "api"})
		if left := rest.Instances("api"); len(left) != 1 || left[0].Source != "nomad" {
			t.Errorf("%+v", left)
		}
	}
}

type text string

func (t text) Reveal() string { return string(t) }

func TestTheEnvironmentStandsInForSettings(t *testing.T) {
	var token, auth, query string
	srv := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token, auth, query = r.Header.Get("X-Nomad-Token"), r.Header.Get("Authorization"), r.URL.RawQuery
		fmt.Fprint(w, `"10.0.0.1:4647"`)
	}))
	defer srv.Close()
	srv.Config.ErrorLog = nil
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: srv.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	ask := func(opt Options) error {
		src, err := New(opt)
		if err != nil {
			return err
		}
		_, err = newLife(src).query(context.Background(), "/v1/status/leader", new(string), &api.QueryOptions{Namespace: src.opt.Namespaces[0]})
		return err
	}
	host := strings.TrimPrefix(srv.URL, "https://")
	for k, v := range map[string]string{"NOMAD_ADDR": srv.URL, "NOMAD_TOKEN": "from-env", "NOMAD_REGION": "eu", "NOMAD_NAMESPACE": "team", "NOMAD_CACERT": ca, "NOMAD_HTTP_AUTH": "u:p"} {
		t.Setenv(k, v)
	}
	if err := ask(Options{}); err != nil || token != "from-env" || !strings.HasPrefix(auth, "Basic ") || !strings.Contains(query, "region=eu") || !strings.Contains(query, "namespace=team") {
		t.Error(err, token, auth, query)
	}
	if err := ask(Options{Address: host, Token: text("mine"), Namespaces: []string{"mine"}, Region: "us"}); err != nil || token != "mine" || !strings.Contains(query, "namespace=mine") || !strings.Contains(query, "region=us") {
		t.Error(err, token, query)
	}
	t.Setenv("NOMAD_TLS_SERVER_NAME", "server.eu.nomad")
	if err := ask(Options{}); err == nil {
		t.Error("the certificate is not for server.eu.nomad")
	}
	t.Setenv("NOMAD_SKIP_VERIFY", "true")
	if err := ask(Options{}); err != nil {
		t.Error(err)
	}
	t.Setenv("NOMAD_CLIENT_CERT", ca)
	if err := ask(Options{}); err == nil {
		t.Error("a certificate without a key")
	}
}

func TestAUnixSocketIsAnAddress(t *testing.T) {
	dir, err := os.MkdirTemp("", "krnmd-")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	srv := &httptest.Server{Listener: l, Config: &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `"x"`) })}}
	srv.Start()
	defer srv.Close()
	src, err := New(Options{Address: "unix://" + filepath.Join(dir, "s")})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := newLife(src).query(context.Background(), "/v1/status/leader", new(string), &api.QueryOptions{}); err != nil {
		t.Error(err)
	}
}

func TestSettingsThatCannotBe(t *testing.T) {
	for _, opt := range []Options{
		{Namespaces: []string{""}},
		{Token: text("x"), TokenFile: "/x"},
		{CertFile: "/x"},
		{CAFile: "/does/not/exist"},
		{Address: "http://[::1"},
	} {
		if _, err := New(opt); err == nil {
			t.Errorf("%+v was taken", opt)
		}
	}
	src, err := New(Options{Namespaces: []string{"team", "*"}})
	if err != nil || len(src.opt.Namespaces) != 1 || src.Name() != "nomad" {
		t.Error(src, err)
	}
}
