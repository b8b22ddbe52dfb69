package cut

import (
	"encoding/binary"
	"errors"
	"net/netip"
	"testing"
	"time"

	corev3 "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	tlsv3 "github.com/envoyproxy/go-control-plane/envoy/extensions/transport_sockets/tls/v3"
	"google.golang.org/protobuf/proto"

	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/policy"
)

// fakeKernel has a socket for every place that is asked for, unless it is gone.
type fakeKernel struct {
	next      uint64
	alive     map[uint64]netip.AddrPort // cookie: peer
	destroyed []netip.AddrPort
	fails     error
	missing   bool // nothing is found
}

func newFake() *fakeKernel { return &fakeKernel{alive: map[uint64]netip.AddrPort{}} }

func (k *fakeKernel) find(local, peer netip.AddrPort) (socket, bool, error) {
	if k.missing {
		return socket{}, false, nil
	}
	s := named(local, peer)
	for c, p := range k.alive {
		if p == peer {
			binary.NativeEndian.PutUint64(s.id[40:], c)
			return s, true, nil
		}
	}
	k.next++
	binary.NativeEndian.PutUint64(s.id[40:], k.next)
	k.alive[k.next] = peer
	return s, true, nil
}

func (k *fakeKernel) search(uint16, netip.AddrPort) ([]socket, error) { return nil, nil }

func (k *fakeKernel) cookies() (map[uint64]bool, error) {
	out := map[uint64]bool{}
	for c := range k.alive {
		out[c] = true
	}
	return out, nil
}

func (k *fakeKernel) destroy(s socket) (bool, error) {
	if k.fails != nil {
		return false, k.fails
	}
	peer, ok := k.alive[s.cookie()]
	if !ok {
		return true, nil
	}
	delete(k.alive, s.cookie())
	k.destroyed = append(k.destroyed, peer)
	return false, nil
}

func (k *fakeKernel) close() {}

func testProxy() (*Proxy, *fakeKernel) {
	k := newFake()
	p := New(Config{ID: "api/vm-1", Accept: []uint16{8080}})
	p.kernel = k
	return p, k
}

const testRules = "open:api:8080"

// tell gives a proxy new rules and waits for nothing: the test judges itself.
func tell(t testing.TB, p *Proxy, open string, rules ...mesh.Permission) {
	t.Helper()
	tellT(p, open, rules...)
}

func tellT(p *Proxy, open string, rules ...mesh.Permission) {
	p.Shown(secretType, testRules, rulesBody(open, rules...))
	p.judgeAll()
}

// rulesBody is the resource that rules come in.
func rulesBody(open string, rules ...mesh.Permission) []byte {
	text := policy.RulesOf([]*mesh.Intention{{Label: "api", Open: open, Rules: rules}}, mesh.ActionDeny, "api", "").Text()
	return textBody(text)
}

func textBody(text []byte) []byte {
	body, err := proto.Marshal(&tlsv3.Secret{Name: testRules, Type: &tlsv3.Secret_GenericSecret{GenericSecret: &tlsv3.GenericSecret{
		Secret: &corev3.DataSource{Specifier: &corev3.DataSource_InlineBytes{InlineBytes: text}},
	}}})
	if err != nil {
		panic(err)
	}
	return body
}

func allow(from ...string) mesh.Permission {
	return mesh.Permission{Action: mesh.ActionAllow, From: from}
}

func from(port uint16, who string) event {
	e := event{
		place: place{netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), port), netip.MustParseAddrPort("10.0.0.2:8080")},
		rules: testRules, began: time.Unix(1, 0),
	}
	if who != "" {
		e.uri = mesh.ServiceIdentity("test.example", mesh.ServiceName(who)).String()
	}
	return e
}

func asking(e event, id int64, method, path string) event {
	e.http, e.call = true, call{id, method, path}
	return e
}

func ended(e event) event { e.over = true; return e }

var errDenied = errors.New("not permitted")
