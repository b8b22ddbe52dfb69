package command

import (
	"bytes"
	"encoding/json"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kerege/kerege/api"
)

// agentThat answers on a socket of its own.
func agentThat(t *testing.T, answers map[string]func(http.ResponseWriter)) {
	dir, err := os.MkdirTemp("", "krc") // short, for the socket's path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "api.sock"))
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	for pattern, h := range answers {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, _ *http.Request) { h(w) })
	}
	s := &http.Server{Handler: mux}
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { s.Close(); <-done })
	t.Setenv("KEREGE_AGENT_ADDR", "unix://"+l.Addr().String())
}

func says(v any, code int) func(http.ResponseWriter) {
	return func(w http.ResponseWriter) {
		w.Header().Set("content-type", "application/json")
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(v)
	}
}

func TestLeaveSaysWhatIsSo(t *testing.T) {
	status := api.AgentStatus{Node: "vm-1", Workloads: []api.AgentWorkload{{Service: "web"}, {Service: "shop"}}}
	run := func(args string) (int, string) {
		var out bytes.Buffer
		code := Run(strings.Fields(args), strings.NewReader(""), &out, &out)
		return code, out.String()
	}
	agentThat(t, map[string]func(http.ResponseWriter){"POST /v1/leave": says(&api.Error{Status: 404, Title: "no registry places wev on vm-1", Detail: "here are: shop, web"}, 404),
		"GET /v1/status": says(status, 200)})
	if code, out := run("leave wev"); code != 1 || !strings.Contains(out, "no registry places wev on vm-1") || !strings.Contains(out, "here are: shop, web") || !strings.Contains(out, "Did you mean kerege leave web?") {
		t.Errorf("exit %d: %s", code, out)
	}
	agentThat(t, map[string]func(http.ResponseWriter){"POST /v1/leave": says(api.AgentLeft{Left: []string{}, Nothing: "web has left already"}, 200)})
	if code, out := run("leave web"); code != 0 || out != "nothing to leave: web has left already\n" {
		t.Errorf("exit %d: %s", code, out)
	}
}

func TestStatusIsTheAgentsWordWhereNoServerIs(t *testing.T) {
	if _, err := os.Stat(strings.TrimPrefix(defaultServer, "unix://")); err == nil {
		t.Fatal("a server runs on this host")
	}
	t.Setenv("KEREGE_ADDR", "")
	status := api.AgentStatus{Node: "vm-1", Joined: true, TrustDomain: "t.example", Servers: api.AgentServers{Connected: true, Addresses: []string{"s:1"}}}
	agentThat(t, map[string]func(http.ResponseWriter){"GET /v1/status": says(status, 200), "GET /v1/capture/status": says(struct{}{}, 200)})
	var out bytes.Buffer
	if code := Run([]string{"status"}, strings.NewReader(""), &out, &out); code != 0 || !strings.Contains(out.String(), "vm-1, a node of t.example") || !strings.Contains(out.String(), "No server answers on this host") {
		t.Errorf("exit %d: %s", code, out.String())
	}
	out.Reset()
	if code := Run([]string{"status", "-addr", "unix:///nowhere/api.sock"}, strings.NewReader(""), &out, &out); code != 3 || strings.Contains(out.String(), "vm-1") {
		t.Errorf("another address: exit %d: %s", code, out.String())
	}
}
