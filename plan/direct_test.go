package plan

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/kerege/kerege/mesh"
)

func TestInstancesAreDialedDirectlyWhereTheServiceSaysSo(t *testing.T) {
	says := func(t *testing.T, mtls mesh.MTLS, dialed *bool, defaults ...mesh.Defaults) string {
		out := inst("api", "10.0.0.9:8080")
		out.Node = "n-other"
		port := outbound(t, proxyOf("web"),
			consul("api", inst("api", "10.0.0.1:8080"), out, inst("api", "127.0.0.1:8080")), members("api"),
			mesh.Part{Source: "file", Services: []mesh.ServiceConfig{{Name: "api", MTLS: mtls, Tuning: mesh.Tuning{DialedDirectly: dialed}}},
				Defaults: defaults, Intentions: []mesh.Intention{intention("api", allow("web"))}})
		var list []string
		for _, d := range port.Direct {
			list = append(list, fmt.Sprint(d.Addr, " ", d.In, " ", d.Held))
		}
		return strings.Join(list, ", ")
	}
	for _, c := range []struct {
		mtls   mesh.MTLS
		dialed *bool
		want   string
	}{
		{"", nil, ""},
		{"", new(false), ""},
		{"", new(true), "10.0.0.1:8080 true false, 10.0.0.9:8080 false true"},
		{mesh.MTLSPermissive, new(true), "10.0.0.1:8080 true false, 10.0.0.9:8080 false false"},
		{mesh.MTLSDisabled, new(true), "10.0.0.1:8080 false false, 10.0.0.9:8080 false false"},
	} {
		if got := says(t, c.mtls, c.dialed); got != c.want {
			t.Errorf("%q: %s, want %s", c.mtls, got, c.want)
		}
	}
	if got := says(t, "", nil, mesh.Defaults{Label: "*", Tuning: mesh.Tuning{DialedDirectly: new(true)}}); !strings.Contains(got, "10.0.0.1") {
		t.Errorf("by defaults: %s", got)
	}
}

// Two ports of a service may come to one address: it is the registered port's.
func TestAnAddressIsOnePorts(t *testing.T) {
	svc := &mesh.Service{Name: "api", Ports: []mesh.Port{{Name: "admin", Number: 8080}, {Name: "http", Number: 80}}}
	in := inst("api", "10.0.0.1:8080")
	in.In = true
	got := directs(svc, []*mesh.Instance{&in})
	if len(got[0]) != 1 || got[0][0].Addr != in.Addr || len(got[1]) != 1 || got[1][0].Addr.Port() != 80 {
		t.Errorf("%+v", got)
	}
	barred := in
	barred.In, barred.Barred = false, "it is elsewhere"
	if got := directs(&mesh.Service{Ports: []mesh.Port{{Number: 1, MTLS: mesh.MTLSPermissive}}}, []*mesh.Instance{&barred}); !got[0][0].Held {
		t.Errorf("one that is barred is not held: %+v", got)
	}
	named := inst("api", "10.0.0.1:80")
	named.PortName = "http"
	got = directs(svc, []*mesh.Instance{&in, &named})
	if len(got[0]) != 1 || len(got[1]) != 1 || !slices.Equal(got[1], []Direct{{Addr: named.Addr}}) {
		t.Errorf("%+v", got)
	}
}

// A service that is not dialed directly does not make its upstream read its instances.
func TestUpstreamsReadInstancesOnlyWhenDialedDirectly(t *testing.T) {
	for _, dialed := range []bool{false, true} {
		snap, _ := mesh.Merge(consul("api", inst("api", "10.0.0.1:8080")), members("api"),
			mesh.Part{Source: "file", Services: []mesh.ServiceConfig{{Name: "api", Tuning: mesh.Tuning{DialedDirectly: &dialed}}}})
		v := NewView(snap)
		compileUpstream(v, newFresh(NewView(snap)), "api", "")
		if slices.Contains(v.Keys(), mesh.Key{Kind: mesh.KindInstances, Name: "api"}) != dialed {
			t.Errorf("dialed directly %v: read %v", dialed, v.Keys())
		}
	}
}
