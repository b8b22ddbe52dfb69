package server

import (
	"context"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/kerege/kerege/api"
	"github.com/kerege/kerege/e2e/xdsim"
	"github.com/kerege/kerege/mesh"
)

func TestFreeze(t *testing.T) {
	r, c := connected(t, xdsim.Mode{})
	f := local[api.Frozen](r, "POST", "/v1/freeze", `{"reason": "incident"}`)
	if f.Reason != "incident" || f.Since.IsZero() {
		t.Errorf("%+v", f)
	}
	r.write(files + bank)
	a := local[api.Applied](r, "POST", "/v1/apply", "")
	if a.Generation != 2 || !a.Frozen || a.Seconds > acknowledgeWithin.Seconds() {
		t.Errorf("%+v", a)
	}
	noError(t, r.s.hub.Members().Put(mesh.Member{Service: "bank", Node: "vm-3"}))
	noError(t, r.s.hub.Settle(t.Context()))
	if st := local[api.Status](r, "GET", "/v1/status", ""); st.Frozen == nil || st.Frozen.Reason != "incident" || st.Generation.Number != 2 {
		t.Errorf("%+v", st)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := r.s.Alive(ctx); err != nil {
		t.Errorf("the watchdog would end a server that is frozen: %v", err)
	}
	// A proxy that is new gets what was so when it froze.
	late := r.envoy(r.dial(r.nodeCert("vm-1")), "web/vm-1", capture, xdsim.Mode{})
	r.waitFor(late, xdsim.Cluster, "api:8080")
	if c.Held(xdsim.Cluster)["bank:90"] != "" || late.Held(xdsim.Cluster)["bank:90"] != "" {
		t.Error("a change was pushed while it was frozen")
	}
	if a := local[api.Applied](r, "POST", "/v1/thaw", ""); a.Generation != 2 || a.Frozen || a.Proxies != 1 || a.Acknowledged != 1 {
		t.Errorf("%+v", a)
	}
	if late.Held(xdsim.Cluster)["bank:90"] == "" {
		t.Error("what waited is not there after the thaw")
	}
	if code, text := r.ask("", "POST", "/v1/thaw", ""); code != 409 || !strings.Contains(text, "nothing is frozen") {
		t.Errorf("a second thaw: %d %s", code, text)
	}
	for _, said := range []string{"frozen: no proxy is told", "thawed"} {
		if !strings.Contains(r.log.String(), said) {
			t.Errorf("the audit log does not say %q", said)
		}
	}
}

// A server that is started again stays frozen: its API answers, the port of nodes is shut.
func TestFreezeOverARestart(t *testing.T) {
	r := newRig(t).start()
	local[api.Frozen](r, "POST", "/v1/freeze", "")
	noError(t, r.stop())
	ready := make(chan string, 1)
	s, err := New(r.cfg, r.options(func(status string) { ready <- status }))
	noError(t, err)
	r.s = s
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	socket := r.cfg.RunDir + "/server/api.sock"
	r.until("its API answers", func() bool {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			return false
		}
		conn.Close()
		return local[api.Status](r, "GET", "/v1/status", "").Ready
	})
	if st := local[api.Status](r, "GET", "/v1/status", ""); st.Frozen == nil {
		t.Errorf("%+v", st)
	}
	if conn, err := net.Dial("tcp", r.cfg.Addresses.GRPC); err == nil {
		conn.Close()
		t.Error("hosts are served while it is frozen")
	}
	local[api.Applied](r, "POST", "/v1/thaw", "")
	select {
	case <-ready:
	case <-time.After(10 * time.Second):
		t.Error("it does not serve after the thaw")
	}
	if _, err := os.Stat(r.cfg.DataDir + "/frozen.json"); !os.IsNotExist(err) {
		t.Errorf("the next start would be frozen: %v", err)
	}
	cancel()
	noError(t, <-done)

	// What cannot be read keeps everything still, and it ends when told to.
	noError(t, os.WriteFile(r.cfg.DataDir+"/frozen.json", []byte("{"), 0o600))
	s, err = New(r.cfg, r.options(func(string) { t.Error("it serves") }))
	noError(t, err)
	ctx, cancel = context.WithCancel(t.Context())
	go func() { done <- s.Run(ctx) }()
	r.until("its API answers", func() bool { _, err := os.Stat(socket); return err == nil })
	if f := s.frost.is(); f == nil || !strings.Contains(f.Reason, "frozen.json") {
		t.Errorf("%+v", f)
	}
	cancel()
	noError(t, <-done)
}
