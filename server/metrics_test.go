package server

import (
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/kerege/kerege/api"
	keregev1 "github.com/kerege/kerege/api/kerege/v1"
	"github.com/kerege/kerege/e2e/xdsim"
	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/telemetry"
	"github.com/kerege/kerege/xds/delta"
)

// metrics scrapes the plain port.
func (r *rig) metrics() string {
	r.t.Helper()
	code, text := r.ask("http://"+r.cfg.Addresses.Metrics, "GET", "/metrics", "")
	if code != 200 {
		r.t.Fatalf("%d %s", code, text)
	}
	return text
}

// sample is a series' number as text; "" when it is not there.
func sample(text, series string) string {
	for line := range strings.Lines(text) {
		if number, is := strings.CutPrefix(line, series+" "); is {
			return strings.TrimSpace(number)
		}
	}
	return ""
}

func number64(t *testing.T, text, series string) float64 {
	t.Helper()
	n, err := strconv.ParseFloat(sample(text, series), 64)
	if err != nil {
		t.Errorf("%s: %v", series, err)
	}
	return n
}

func TestMetricsOfALivingServer(t *testing.T) {
	r, _ := connected(t, xdsim.Mode{})
	r.until("the proxy is synced", func() bool { return sample(r.metrics(), `kerege_proxies{state="synced"}`) == "1" })
	_, csr := newRequest(t)
	signs := keregev1.NewSignClient(r.dial(r.nodeCert("vm-1")))
	_, err := signs.Sign(t.Context(), &keregev1.SignRequest{Service: "web", Csr: csr})
	noError(t, err)
	for range 2 {
		_, err = signs.Sign(t.Context(), &keregev1.SignRequest{Service: "bank", Csr: csr})
		refused(t, err, codes.PermissionDenied, "no registry places")
	}
	_, err = keregev1.NewJoinClient(r.dial(nil)).Join(t.Context(), &keregev1.JoinRequest{Node: "vm-7", Token: "nonsense", Csr: csr})
	refused(t, err, codes.PermissionDenied, "")
	stranger := r.envoy(r.dial(r.nodeCert("vm-9")), "web/vm-9", "", xdsim.Mode{})
	<-stranger.Done()
	r.write(files + bank)
	local[api.Applied](r, "POST", "/v1/apply", "")
	r.until("convergence is measured", func() bool { return sample(r.metrics(), "kerege_convergence_seconds_count") != "0" })

	text := r.metrics()
	for series, want := range map[string]string{
		"kerege_xds_streams":                                  "1",
		`kerege_proxies{state="stale"}`:                       "0",
		`kerege_nodes{state="connected"}`:                     "0",
		`kerege_nodes{state="away"}`:                          "2",
		"kerege_services":                                     "3",
		`kerege_endpoints{state="in"}`:                        "2",
		`kerege_endpoints{state="held"}`:                      "1",
		`kerege_endpoints{state="plaintext"}`:                 "0",
		`kerege_endpoints{state="unhealthy"}`:                 "0",
		"kerege_config_generation":                            "2",
		"kerege_config_valid":                                 "1",
		`kerege_source_ok{source="file"}`:                     "1",
		"kerege_guard_holds":                                  "0",
		`kerege_xds_refused_streams_total{reason="identity"}`: "1",
		`kerege_signatures_total{result="ok"}`:                "1",
		`kerege_signatures_total{result="refused"}`:           "2",
		`kerege_joins_total{result="refused"}`:                "1",
		`kerege_joins_total{result="ok"}`:                     "0",
		`kerege_build_info{version="1.2.3"}`:                  "1",
		`kerege_xds_nacks_total{type="cluster"}`:              "0",
	} {
		if got := sample(text, series); got != want {
			t.Errorf("%s is %q, want %q", series, got, want)
		}
	}
	for series, least := range map[string]float64{
		`kerege_xds_pushes_total{type="cluster"}`: 2, `kerege_xds_pushes_total{type="endpoint"}`: 2, `kerege_xds_pushes_total{type="listener"}`: 1,
		`kerege_xds_sent_bytes_total{type="cluster"}`: 100, "kerege_convergence_seconds_sum": 0,
		"kerege_ca_root_expiry_timestamp_seconds":         float64(time.Now().AddDate(9, 0, 0).Unix()),
		"kerege_ca_intermediate_expiry_timestamp_seconds": float64(time.Now().AddDate(0, 11, 0).Unix()),
		`kerege_source_age_seconds{source="file"}`:        0,
	} {
		if got := number64(t, text, series); got < least {
			t.Errorf("%s is %v, want %v at least", series, got, least)
		}
	}
	if n := number64(t, text, "kerege_convergence_seconds_sum"); n > 5 {
		t.Errorf("it took %v s to converge", n)
	}
	if strings.Contains(text, "vm-1") || strings.Contains(text, "bank") || strings.Contains(text, `="other"} 1`) {
		t.Error("a label names a node or a service, or a type is not known")
	}
	series := 0
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "#") {
			series++
		}
	}
	if series > 300 {
		t.Errorf("%d series", series)
	}
}

// Three doors to the same numbers, and nothing else behind the plain one.
func TestWhereMetricsAre(t *testing.T) {
	r := newRig(t).start()
	plain := "http://" + r.cfg.Addresses.Metrics
	for what, c := range map[string]struct {
		base, path string
		code       int
		headers    []string
	}{
		"plain": {plain, "/metrics", 200, nil}, "plain health": {plain, "/healthz", 200, nil},
		"the API on the plain port": {plain, "/v1/status", 404, nil}, "pprof on the plain port": {plain, "/debug/pprof/", 404, nil},
		"https":                 {r.https(), "/metrics", 200, []string{"Authorization", "Bearer " + r.s.secret}},
		"https without a token": {r.https(), "/metrics", 403, nil}, "the socket": {"", "/metrics", 200, nil},
	} {
		code, text := r.ask(c.base, "GET", c.path, "", c.headers...)
		if code != c.code || c.code == 200 && c.path == "/metrics" && sample(text, "kerege_services") != "2" {
			t.Errorf("%s: %d %.200s", what, code, text)
		}
	}
	if code, _ := r.ask(plain, "POST", "/metrics", ""); code != 405 {
		t.Errorf("POST: %d", code)
	}
	r2 := newRig(t)
	r2.cfg.Addresses.Metrics, r2.cfg.Addresses.HTTPS = "none", "none"
	r2.start() // without a panic; nothing is asked of it but its socket
	if code, text := r2.ask("", "GET", "/metrics", ""); code != 200 || sample(text, "kerege_services") != "2" {
		t.Errorf("%d %.200s", code, text)
	}
}

func TestEndpointStates(t *testing.T) {
	strict, open, off := &mesh.Service{MTLS: mesh.MTLSStrict}, &mesh.Service{MTLS: mesh.MTLSPermissive}, &mesh.Service{MTLS: mesh.MTLSDisabled}
	for _, c := range []struct {
		svc  *mesh.Service
		in   mesh.Instance
		want string
	}{
		{strict, mesh.Instance{In: true, Health: mesh.Healthy}, "in"},
		{strict, mesh.Instance{In: true, Health: mesh.Warning}, "in"},
		{strict, mesh.Instance{In: true, Health: mesh.Unhealthy}, "unhealthy"},
		{strict, mesh.Instance{In: true, Health: mesh.Draining}, "unhealthy"},
		{strict, mesh.Instance{Health: mesh.Healthy}, "held"},
		{strict, mesh.Instance{Health: mesh.Unhealthy}, "held"},
		{open, mesh.Instance{Health: mesh.Healthy}, "plaintext"},
		{open, mesh.Instance{In: true, Health: mesh.Healthy}, "in"},
		{off, mesh.Instance{In: true, Health: mesh.Healthy}, "plaintext"},
		{off, mesh.Instance{Health: mesh.Unhealthy}, "unhealthy"},
	} {
		if got := endpointState(c.svc, &c.in); got != c.want {
			t.Errorf("%s %+v is %s, want %s", c.svc.MTLS, c.in, got, c.want)
		}
	}
}

func TestTypesAndResultsAreDeclared(t *testing.T) {
	for _, url := range []string{delta.TypeSecret, delta.TypeCluster, delta.TypeEndpoints, delta.TypeListener, delta.TypeRoute, delta.TypeExtension} {
		if !slices.Contains(typeWords(), typeWord(url)) {
			t.Errorf("%s is %q, which is not declared", url, typeWord(url))
		}
	}
	for code := range codes.Code(17) {
		if !slices.Contains(results, resultOf(status.Error(code, ""))) {
			t.Errorf("%v is not declared", code)
		}
	}
	for _, f := range newMetrics("1", func(telemetry.SetGauge) {}).Families() {
		if !strings.HasPrefix(f.Name, "kerege_") || f.Help == "" || f.Kind == "counter" != strings.HasSuffix(f.Name, "_total") || f.Kind == "counter" && f.Label != "" && f.Values == nil {
			t.Errorf("%+v", f)
		}
	}
}

// Each proxy counts once, from the oldest snapshot that it had not accepted.
func TestConvergence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		states, seen := map[string]delta.State{}, []time.Duration{}
		set := func(id string, s delta.State) {
			mu.Lock()
			defer mu.Unlock()
			states[id] = s
		}
		c := newConvergence(func(id string) delta.State { mu.Lock(); defer mu.Unlock(); return states[id] },
			func(d time.Duration) { mu.Lock(); defer mu.Unlock(); seen = append(seen, d) }, time.Now)
		ids := []mesh.ProxyID{{Service: "a", Node: "n"}, {Service: "b", Node: "n"}, {Service: "gone", Node: "n"}, {Service: "no", Node: "n"}}
		set("a/n", delta.Stale)
		set("b/n", delta.Stale)
		set("no/n", delta.Nacked)
		done := make(chan error, 1)
		go func() { done <- c.run(t.Context()) }()
		c.pushed(time.Now(), nil)
		c.pushed(time.Now(), ids)
		time.Sleep(30 * time.Millisecond)
		set("a/n", delta.Synced)
		time.Sleep(10 * time.Millisecond)
		c.pushed(time.Now(), ids[1:2]) // a second snapshot; the first one's time counts
		time.Sleep(60 * time.Millisecond)
		set("b/n", delta.Synced)
		time.Sleep(time.Second)
		mu.Lock()
		if len(seen) != 2 || seen[0] < 30*time.Millisecond || seen[0] > 35*time.Millisecond || seen[1] < 100*time.Millisecond || seen[1] > 115*time.Millisecond {
			t.Errorf("measured %v, want 30 ms and 100 ms", seen)
		}
		mu.Unlock()
		c.mu.Lock()
		if len(c.since) != 0 {
			t.Errorf("still waits for %v", slices.Collect(maps.Keys(c.since)))
		}
		c.mu.Unlock()
		before := time.Now()
		synctest.Wait()
		if time.Since(before) != 0 {
			t.Error("it looks although there is nothing to see")
		}
	})
}
