package agent

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/kerege/kerege/agent/capture"
	"github.com/kerege/kerege/api"
)

// TestWhatAnAgentSaysOfItself: on its socket and on the plain port, every family
// that is declared has a number once the node is in.
func TestWhatAnAgentSaysOfItself(t *testing.T) {
	p := newPlace(t, oneNode)
	fake := &fakeCapture{st: capture.Status{Applied: true}}
	p.cap, p.metrics = fake, fmt.Sprintf("127.0.0.1:%d", freePort(t))
	p.startServer()
	p.startNode()
	get := func(path string) (int, string) {
		t.Helper()
		r, err := http.Get("http://" + p.metrics + path)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		text, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		return r.StatusCode, string(text)
	}
	if code, text := get("/healthz"); code != 503 || !strings.Contains(text, "step identity") {
		t.Errorf("before joining: %d %s", code, text)
	}
	if _, text := get("/metrics"); !strings.Contains(text, "kerege_agent_up 0") || strings.Contains(text, "kerege_agent_certificate") {
		t.Errorf("before joining:\n%s", text)
	}
	if _, err := p.client.Join(p.ctx, api.AgentJoin{Token: p.token()}); err != nil {
		t.Fatal(err)
	}
	p.until("up", func() bool { code, _ := get("/healthz"); return code == 200 })
	p.until("web's certificate", func() bool { return !p.web().Expires.IsZero() })
	p.until("its configuration", func() bool { return p.web().Proxy.Source == "live" })
	_, text := get("/metrics")
	for _, line := range []string{"kerege_agent_up 1", `kerege_agent_workloads{state="in"} 0`, `kerege_agent_workloads{state="held"} 1`, `kerege_agent_proxies{source="live"} 1`,
		"kerege_agent_envoys 0", "kerege_agent_proxies_ready 0", "kerege_agent_server_connected 1", "kerege_agent_server_age_seconds 0", "kerege_agent_names 2",
		"kerege_agent_capture_applied 1", "kerege_agent_capture_repairs_total 3", `kerege_agent_dns_answers_total{from="mesh"} 0`, `kerege_build_info{version="test"} 1`} {
		if !strings.Contains(text, line+"\n") {
			t.Errorf("it does not say %s", line)
		}
	}
	for _, f := range MetricFamilies() {
		if !strings.Contains(text, "\n"+f.Name) {
			t.Errorf("%s has no number", f.Name)
		}
	}
	if code, _ := get("/v1/status"); code != 404 {
		t.Errorf("the API on the plain port: %d", code)
	}
	socket := http.Client{Transport: &http.Transport{DisableKeepAlives: true, Dial: func(string, string) (net.Conn, error) { return net.Dial("unix", p.dir+"/run/agent/api.sock") }}}
	r, err := socket.Get("http://agent/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if text, err := io.ReadAll(r.Body); err != nil || !strings.Contains(string(text), "kerege_agent_up 1") {
		t.Errorf("on the socket: %v %s", err, text)
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
}
