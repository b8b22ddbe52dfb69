package server

import (
	"context"
	"os"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/kerege/kerege/api"
	keregev1 "github.com/kerege/kerege/api/kerege/v1"
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

// A server that is started again stays frozen: it tells no proxy anything, for
// what it knows now is not what they have; certificates are given as ever.
func TestFreezeOverARestart(t *testing.T) {
	r, c := connected(t, xdsim.Mode{})
	local[api.Frozen](r, "POST", "/v1/freeze", "")
	c.Close()
	r.again()
	if st := local[api.Status](r, "GET", "/v1/status", ""); st.Frozen == nil || !st.Ready {
		t.Errorf("%+v", st)
	}
	vm1 := r.dial(r.nodeCert("vm-1"))
	_, csr := newRequest(t)
	_, err := keregev1.NewSignClient(vm1).Sign(t.Context(), &keregev1.SignRequest{Service: "web", Csr: csr})
	noError(t, err)
	c = r.envoy(vm1, "web/vm-1", capture, xdsim.Mode{})
	<-c.Done()
	refused(t, c.Err(), codes.Unavailable, "frozen")
	local[api.Applied](r, "POST", "/v1/thaw", "")
	r.waitFor(r.envoy(vm1, "web/vm-1", capture, xdsim.Mode{}), xdsim.Cluster, "api:8080")
	if _, err := os.Stat(r.cfg.DataDir + "/frozen.json"); !os.IsNotExist(err) {
		t.Errorf("the next start would be frozen: %v", err)
	}
	noError(t, r.stop())

	// What cannot be read keeps everything still.
	noError(t, os.WriteFile(r.cfg.DataDir+"/frozen.json", []byte("{"), 0o600))
	r.start()
	if f := r.s.frost.cold(); f == nil || !strings.Contains(f.Reason, "frozen.json") {
		t.Errorf("%+v", f)
	}
}
