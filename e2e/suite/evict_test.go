//go:build e2e

package suite

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"github.com/kerege/kerege/agent/capture"
	"github.com/kerege/kerege/agent/seal"
	"github.com/kerege/kerege/e2e/lab"
	"github.com/kerege/kerege/e2e/town"
)

// stolen is the identity of a host's service, as who has root there has it.
func stolen(t *testing.T, h *town.Host) tls.Certificate {
	t.Helper()
	key, err := seal.LoadKey(filepath.Join(h.Dir, "data", "seal.key"), false)
	must(t, err)
	list, err := filepath.Glob(filepath.Join(h.Dir, "data", "identity", "svc-*.sealed"))
	if must(t, err); len(list) != 1 {
		t.Fatalf("its identities are %v", list)
	}
	plain, _, err := key.Read(list[0], "identity", 1)
	must(t, err)
	var v struct {
		Chain [][]byte `json:"chain"`
		Key   []byte   `json:"key"`
	}
	must(t, json.Unmarshal(plain, &v))
	private, err := x509.ParsePKCS8PrivateKey(v.Key)
	must(t, err)
	return tls.Certificate{Certificate: v.Chain, PrivateKey: private}
}

// dialed is a connection from a host to a port's sidecar, past the host's own.
func dialed(t *testing.T, h *town.Host, to, sni, alpn string, cert tls.Certificate) *tls.Conn {
	t.Helper()
	var raw net.Conn
	must(t, capture.InNamespace("/run/netns/"+h.NS, func() (err error) {
		raw, err = net.DialTimeout("tcp", to, 3*time.Second)
		return err
	}))
	t.Cleanup(func() { raw.Close() })
	c := tls.Client(raw, &tls.Config{Certificates: []tls.Certificate{cert}, InsecureSkipVerify: true, NextProtos: []string{alpn}, ServerName: sni})
	must(t, c.SetDeadline(time.Now().Add(5*time.Second)))
	must(t, c.Handshake())
	must(t, c.SetDeadline(time.Time{}))
	return c
}

// callOn is the status of a call on a connection, or the error.
func callOn(ctx context.Context, cc *http2.ClientConn) string {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, "GET", "http://api.mesh:8080/short", nil)
	if err != nil {
		return err.Error()
	}
	answer, err := cc.RoundTrip(r)
	if err != nil {
		return err.Error()
	}
	defer answer.Body.Close()
	_, _ = io.Copy(io.Discard, answer.Body)
	return answer.Status
}

// ends reads until the connection ends, or the time is over.
func ends(c net.Conn, limit time.Duration) error {
	if err := c.SetReadDeadline(time.Now().Add(limit)); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, c)
	var late net.Error
	if errors.As(err, &late) && late.Timeout() {
		return errText("it goes on")
	}
	return nil
}

// A host that is sent away loses at once what it holds, also who took its identity
// elsewhere; another host of the same service loses nothing.
func TestAnEvictedNodeLosesWhatItHolds(t *testing.T) {
	ctx, w, _ := openTown(t)
	web, dest := w.Hosts["web"], w.Hosts["api"]
	all := []string{"tcp", "download", "grpc"}
	mine := hold(t, ctx, web, all...)
	others := append(hold(t, ctx, w.Hosts["web2"], all...), hold(t, ctx, w.Hosts["ops"], all...)...)
	cert := stolen(t, web)
	h2 := func() *http2.ClientConn {
		cc, err := (&http2.Transport{}).NewClientConn(dialed(t, web, dest.IP.String()+":8080", "8080.api.test.example", "kerege", cert))
		must(t, err)
		return cc
	}
	db := func() net.Conn {
		return dialed(t, web, dest.IP.String()+":5432", "5432.api.test.example", "kerege-tcp", cert)
	}
	calls, stream := h2(), db()
	if got := callOn(ctx, calls); got != "200 OK" {
		t.Fatalf("before: %s", got)
	}
	if _, err := io.ReadFull(stream, make([]byte, 4)); err != nil {
		t.Fatalf("before: %v", err)
	}
	time.Sleep(500 * time.Millisecond) // the agent hears of what has just been opened

	began := time.Now()
	out, code := w.Ask(ctx, "node", "evict", "web")
	if code != 0 {
		t.Fatalf("evict: %s", out)
	}
	evicted := time.Now()
	if err := ends(stream, 3*time.Second); err != nil {
		t.Errorf("a TCP connection of the stolen identity: %v", err)
	}
	t.Logf("the stolen identity's TCP connection ended %d ms after evict returned", time.Since(evicted).Milliseconds())
	cutWithin(t, ctx, began, evicted, 2*time.Second, mine)
	refused := func(when string) {
		t.Helper()
		fresh := h2()
		for what, cc := range map[string]*http2.ClientConn{"the old connection": calls, "a new connection": fresh} {
			if got := callOn(ctx, cc); got != "403 Forbidden" && (cc == fresh || got == "200 OK") {
				t.Errorf("%s, a call on %s: %s", when, what, got)
			}
			if err := lab.Until(ctx, 3*time.Second, what+" to end", func() error {
				if !cc.State().Closed {
					return errText("it stays open")
				}
				return nil
			}); err != nil {
				t.Errorf("%s: %v", when, err)
			}
		}
		if err := ends(db(), 3*time.Second); err != nil {
			t.Errorf("%s, a new TCP connection: %v", when, err)
		}
	}
	refused("evicted")
	goOn(t, ctx, others)
	if log := dest.Agent.Tail(1 << 16); !strings.Contains(log, "its node was evicted") {
		t.Errorf("the agent's log does not say why: %s", dest.Agent.Tail(2000))
	}

	token, _ := w.Ask(ctx, "token", "create", "-node", "web")
	if out, code := web.Combined(ctx, lab.Spec{Env: web.Env(), In: strings.NewReader(token), Args: []string{w.Kerege, "join", "-"}}); code != 0 {
		t.Fatalf("joining again: %s", out)
	}
	must(t, web.WaitFor(ctx, api+"/short", 200, 30*time.Second))
	fresh := hold(t, ctx, web, all...)
	refused("when it is in again")
	goOn(t, ctx, append(others, fresh...))
}
