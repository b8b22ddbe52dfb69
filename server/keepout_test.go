package server

import (
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/kerege/kerege/api"
	keregev1 "github.com/kerege/kerege/api/kerege/v1"
	"github.com/kerege/kerege/ca"
	"github.com/kerege/kerege/e2e/xdsim"
	"github.com/kerege/kerege/mesh"
)

// Who may be a node can be sent away, although no table knows it; a ban comes first.
func TestWhoCanBeSentAway(t *testing.T) {
	r := newRig(t).start()
	gone := func(path string) {
		t.Helper()
		local[api.NodeAway](r, "POST", "/v1/nodes/"+path, "")
	}
	gone("vm-1/evict") // placed by a registry alone
	c := r.dial(r.nodeCert("vm-8"))
	node, err := keregev1.NewNodeClient(c).Connect(t.Context()) // admitted by its certificate alone
	noError(t, err)
	_, err = node.Recv()
	noError(t, err)
	gone("vm-8/evict")
	_, err = keregev1.NewNodeClient(c).Peers(t.Context(), &keregev1.PeersRequest{})
	refused(t, err, codes.PermissionDenied, "evicted")
	early := r.token("vm-9")
	gone("vm-9/evict") // may join
	if err := r.s.tokens.Spend(early, "vm-9", "10.0.0.9"); !errors.Is(err, ca.ErrToken) {
		t.Errorf("it joins with a token of before: %v", err)
	}
	gone("vm-10/ban")
	_, err = keregev1.NewNodeClient(r.dial(r.nodeCert("vm-10"))).Peers(t.Context(), &keregev1.PeersRequest{})
	refused(t, err, codes.PermissionDenied, "banned")
	if code, text := r.ask("", "POST", "/v1/nodes/vm-11/evict", ""); code != http.StatusNotFound || !strings.Contains(text, `Did you mean \"vm-1`) {
		t.Errorf("%d %s", code, text)
	}
}

// What a crash left in the mesh of a host that was sent away is out at the next
// start; what cannot be written down is tried until it can.
func TestWhoIsSentAwayGoesInTheEnd(t *testing.T) {
	r := newRig(t).start()
	in := func(node string) bool {
		for _, name := range r.s.hub.Snapshot().Services() {
			if slices.ContainsFunc(r.s.hub.Snapshot().Instances(name), func(i *mesh.Instance) bool { return i.Node == node && i.In }) {
				return true
			}
		}
		return false
	}
	noError(t, r.s.hub.Members().Put(mesh.Member{Service: "api", Node: "vm-2"}, mesh.Member{Service: "web", Node: "vm-1"}))
	r.until("both are in", func() bool { return in("vm-1") && in("vm-2") })
	noError(t, r.s.tokens.Evict("vm-2")) // and the server ends
	r.again()
	if in("vm-2") || len(r.s.hub.Members().List()) != 1 {
		t.Errorf("members %v", r.s.hub.Members().List())
	}

	file := filepath.Join(r.dir, "data", "registry", "members.json")
	noError(t, os.Rename(file, file+".kept"))
	noError(t, os.MkdirAll(filepath.Join(file, "x"), 0o755))
	if code, text := r.ask("", "POST", "/v1/nodes/vm-1/evict", ""); code != http.StatusInternalServerError {
		t.Errorf("%d %s", code, text)
	}
	if err := r.s.tokens.Admitted("vm-1", time.Now()); err == nil {
		t.Error("it is not even evicted")
	}
	r.until("it is tried again", func() bool { return strings.Contains(r.log.String(), "still in the mesh") })
	if !in("vm-1") {
		t.Error("it is out, and that is not on disk")
	}
	noError(t, os.RemoveAll(file))
	r.until("it is out", func() bool { return !in("vm-1") && len(r.s.hub.Members().List()) == 0 })
}

// An eviction is known to callers at once while it is frozen, and nothing else is.
func TestAHostIsSentAwayThroughAFreeze(t *testing.T) {
	r, c := connected(t, xdsim.Mode{})
	noError(t, r.s.hub.Members().Put(mesh.Member{Service: "api", Node: "vm-2"}))
	noError(t, r.s.hub.Settle(t.Context()))
	r.until("it is called", func() bool { return r.told("api", "vm-2") })
	local[api.Frozen](r, "POST", "/v1/freeze", "")
	r.write(files + bank)
	local[api.Applied](r, "POST", "/v1/apply", "")
	before := c.Held(xdsim.Endpoints)["api:8080"]
	if away := local[api.NodeAway](r, "POST", "/v1/nodes/vm-2/evict", ""); away.Late || !slices.Equal(away.Services, []string{"api"}) {
		t.Errorf("%+v", away)
	}
	if r.told("api", "vm-2") || len(r.s.planner.told().Away()) != 1 {
		t.Error("callers keep it, or believe it")
	}
	r.until("its caller has heard", func() bool { return c.Held(xdsim.Endpoints)["api:8080"] != before })
	if c.Held(xdsim.Cluster)["bank:90"] != "" {
		t.Error("more than that was pushed")
	}
	// It joins again, and is in again, before the thaw.
	noError(t, r.s.tokens.Spend(r.token("vm-2"), "vm-2", "10.0.0.2"))
	noError(t, r.s.hub.Members().Put(mesh.Member{Service: "api", Node: "vm-2"}))
	noError(t, r.s.hub.Settle(t.Context()))
	if r.told("api", "vm-2") {
		t.Error("a change came through the freeze")
	}
	local[api.Applied](r, "POST", "/v1/thaw", "")
	r.until("all has come", func() bool { return r.told("api", "vm-2") && c.Held(xdsim.Cluster)["bank:90"] != "" })
	r.until("its caller has it", func() bool { return c.Held(xdsim.Endpoints)["api:8080"] == before })

	// Of a server that has told nobody anything, callers hear when it thaws.
	local[api.Frozen](r, "POST", "/v1/freeze", "")
	r.again()
	if away := local[api.NodeAway](r, "POST", "/v1/nodes/vm-2/evict", ""); !away.Late {
		t.Errorf("%+v", away)
	}
}

// told says whether callers were told that an instance on a node is in.
func (r *rig) told(service mesh.ServiceName, node string) bool {
	told := r.s.planner.told()
	return told != nil && slices.ContainsFunc(told.Instances(service), func(i *mesh.Instance) bool { return i.Node == node && i.In })
}

// A reason is one short line.
func TestReasons(t *testing.T) {
	r := newRig(t).start()
	for _, reason := range []string{strings.Repeat("x", maxReason+1), `a\nb`, `a\u001b[2J`} {
		for _, path := range []string{"/v1/freeze", "/v1/nodes/vm-7/ban"} {
			if code, text := r.ask("", "POST", path, `{"reason":"`+reason+`"}`); code != http.StatusBadRequest || !strings.Contains(text, "one line of 500 bytes") {
				t.Errorf("%s: %d %s", path, code, text)
			}
		}
	}
	if r.s.frost.is() != nil || len(r.s.tokens.Nodes()) != 0 {
		t.Error("it holds all the same")
	}
}
