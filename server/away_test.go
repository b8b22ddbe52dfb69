package server

import (
	"crypto/x509"
	"net/http"
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

// A host that is sent away is out of everything at once: its proxies' streams,
// its own, its services' endpoints, new certificates.
func TestAHostIsSentAway(t *testing.T) {
	for _, how := range []string{"evict", "ban"} {
		t.Run(how, func(t *testing.T) {
			r, caller := connected(t, xdsim.Mode{})
			vm2 := r.dial(r.nodeCert("vm-2"))
			proxy := r.envoy(vm2, "api/vm-2", capture, xdsim.Mode{})
			r.waitFor(proxy, xdsim.Listener, "inbound")
			node, err := keregev1.NewNodeClient(vm2).Connect(t.Context())
			noError(t, err)
			report := &keregev1.NodeReport{Complete: true, Members: []*keregev1.Membership{{Service: "api"}}}
			noError(t, node.Send(report))
			r.until("it is connected", func() bool {
				return slices.ContainsFunc(r.s.nodes.list(), func(n api.Node) bool { return n.Name == "vm-2" && n.Connected })
			})
			_, own := newRequest(t)
			signed, err := keregev1.NewSignClient(vm2).Sign(t.Context(), &keregev1.SignRequest{Service: "api", Csr: own})
			noError(t, err)
			leaf, err := x509.ParseCertificate(signed.Chain[0])
			noError(t, err)
			if len(r.s.hub.Snapshot().Away()) != 0 {
				t.Errorf("away are %v", r.s.hub.Snapshot().Away())
			}
			begin := time.Now()
			body := ""
			if how == "ban" {
				body = `{"reason":"stolen"}`
			}
			away := local[api.NodeAway](r, "POST", "/v1/nodes/vm-2/"+how, body)
			if away.Node != "vm-2" || away.Streams != 1 || !slices.Equal(away.Services, []string{"api"}) || away.LeafTTLSeconds <= 0 {
				t.Errorf("%+v", away)
			}
			_ = node.Send(report) // it insists
			<-proxy.Done()
			refused(t, proxy.Err(), codes.PermissionDenied, "vm-2")
			evicted := false
			for {
				u, err := node.Recv()
				if err != nil {
					refused(t, err, codes.PermissionDenied, "vm-2")
					break
				}
				evicted = evicted || u.GetEvicted()
			}
			if !evicted || time.Since(begin) > 5*time.Second {
				t.Errorf("it was told: %v, after %s", evicted, time.Since(begin))
			}
			r.until("nobody calls it", func() bool { in := r.s.hub.Snapshot().Instances("api"); return len(in) == 1 && !in[0].In })
			r.until("what it holds is believed no more", func() bool {
				return len(leaf.DNSNames) == 1 && slices.Equal(r.s.hub.Snapshot().Away(), leaf.DNSNames)
			})
			if len(r.s.hub.Members().List()) != 1 { // web on vm-1
				t.Errorf("members %v", r.s.hub.Members().List())
			}
			_, csr := newRequest(t)
			_, err = keregev1.NewSignClient(vm2).Sign(t.Context(), &keregev1.SignRequest{Service: "api", Csr: csr})
			refused(t, err, codes.PermissionDenied, "vm-2")
			again := r.envoy(vm2, "api/vm-2", capture, xdsim.Mode{})
			<-again.Done()
			refused(t, again.Err(), codes.PermissionDenied, "vm-2")
			for _, n := range local[api.Status](r, "GET", "/v1/status", "").Nodes {
				if want := map[string]string{"evict": "evicted", "ban": "banned"}[how]; n.Name == "vm-2" && (n.State != want || n.Connected || n.Since.IsZero() || n.Reason != map[string]string{"ban": "stolen"}[how]) {
					t.Errorf("status lists %+v", n)
				}
			}
			for _, v := range local[[]api.Service](r, "GET", "/v1/services", "") {
				if v.Name == "api" && (!strings.Contains(v.Instances[0].Held, "its host vm-2 was "+map[string]string{"evict": "evicted", "ban": "banned"}[how]) || !strings.Contains(v.Instances[0].Held, "kerege token create -node vm-2")) {
					t.Errorf("held: %+v", v.Instances)
				}
			}
			if text := r.log.String(); !strings.Contains(text, "node sent away: node=vm-2") || how == "ban" && !strings.Contains(text, "reason=stolen") {
				t.Error("no audit line")
			}
			select {
			case <-caller.Done():
				t.Errorf("another host's stream ended: %v", caller.Err())
			default:
			}
			code, _ := r.ask("", "POST", "/v1/nodes/vm-2/unban", "")
			if (code == http.StatusOK) != (how == "ban") {
				t.Errorf("unban: %d", code)
			}
			err = r.s.tokens.Spend(r.token("vm-2"), "vm-2", "10.0.0.2")
			noError(t, err)
		})
	}
}

func TestWhoCannotBeSentAway(t *testing.T) {
	r := newRig(t).start()
	for path, want := range map[string]int{
		"/v1/nodes/vm-77/evict": http.StatusNotFound, "/v1/nodes/vm-77/unban": http.StatusNotFound,
		"/v1/nodes/..%2f/evict": http.StatusNotFound, "/v1/nodes/..%2f/ban": http.StatusBadRequest,
	} {
		if code, text := r.ask("", "POST", path, ""); code != want {
			t.Errorf("%s: %d %s", path, code, text)
		}
	}
	noError(t, r.s.hub.Members().Put(mesh.Member{Service: "api", Node: "vm-2"}))
	if code, text := r.ask("", "POST", "/v1/nodes/vm-2/ban", `{"reason":"`+strings.Repeat("x", 501)+`"}`); code != http.StatusBadRequest {
		t.Errorf("a long reason: %d %s", code, text)
	}
	if code, _ := r.ask(r.https(), "POST", "/v1/nodes/vm-2/evict", ""); code != http.StatusForbidden {
		t.Errorf("without the operator's token: %d", code)
	}
	if len(r.s.tokens.Nodes()) != 0 {
		t.Errorf("%+v", r.s.tokens.Nodes())
	}
}

// Where another host joins in the place of one, what that one has open ends.
func TestAReplacedHostsStreamsEnd(t *testing.T) {
	r, c := connected(t, xdsim.Mode{})
	_, csr := newRequest(t)
	_, err := keregev1.NewJoinClient(r.dial(nil)).Join(t.Context(), &keregev1.JoinRequest{Token: r.token("vm-1"), Node: "vm-1", Csr: csr})
	noError(t, err)
	select {
	case <-c.Done():
		refused(t, c.Err(), codes.PermissionDenied, "replaced by another host")
	case <-time.After(5 * time.Second):
		t.Error("the stream of the host before is open")
	}
}

// token is a join token for a node.
func (r *rig) token(node string) string {
	r.t.Helper()
	token, _, err := r.s.tokens.Create(node, ca.RoleNode, time.Minute)
	noError(r.t, err)
	return token.Text()
}
