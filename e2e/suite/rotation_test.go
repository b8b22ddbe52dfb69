//go:build e2e

package suite

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kerege/kerege/e2e/lab"
	"github.com/kerege/kerege/e2e/town"
)

// C12: certificates that live a minute are renewed under load; nothing is
// dropped, an answer that lasts longer than 15 s and than a certificate's half
// is not cut, and new handshakes see the new certificate.
func TestCertificatesRotateUnderLoad(t *testing.T) {
	ctx, w, _ := pair(t, allowWeb)
	web, api1 := w.Hosts["web"], w.Hosts["api1"]
	must(t, web.WaitFor(ctx, api+"/", 200, 10*time.Second))
	before := map[string]string{}
	for name, h := range w.Hosts {
		serial, err := h.Serial(ctx)
		must(t, err)
		before[name] = serial
	}
	shown, err := shownSerial(ctx, w, api1)
	must(t, err)
	stream, err := web.Stream(api + "/stream/3000")
	must(t, err)
	r, err := web.LoadDuring(ctx, api+"/", 100, 35*time.Second, func() error {
		t.Run("what a caller says of itself is replaced", func(t *testing.T) { forged(t, ctx, web) })
		return lab.Until(ctx, 34*time.Second, "every certificate to be renewed", func() error {
			for name, h := range w.Hosts {
				serial, err := h.Serial(ctx)
				if err != nil {
					return err
				}
				if serial == before[name] {
					return fmt.Errorf("%s still shows %s", name, serial)
				}
			}
			return nil
		})
	})
	must(t, err)
	none(t, "certificates renewed", r)
	select {
	case <-stream.Done():
		t.Errorf("the stream was cut: %v %s", stream.Err(), stream.Tail(200))
	default:
	}
	if n := strings.Count(stream.Tail(1<<20), "line "); n < 300 {
		t.Errorf("the stream had %d lines after 35 s", n)
	}
	now, err := shownSerial(ctx, w, api1)
	if err != nil || now == shown {
		t.Errorf("a new handshake shows %s, before it was %s: %v", now, shown, err)
	}
	drained, err := api1.EnvoyAdmin(ctx, "/stats?filter=listener_manager.total_listeners_draining|downstream_cx_drain_close")
	must(t, err)
	for line := range strings.Lines(drained) {
		if !strings.HasSuffix(strings.TrimSpace(line), ": 0") {
			t.Errorf("something drained: %s", line)
		}
	}
}

// shownSerial is the serial number of the certificate that a host's inbound
// listener shows to whoever asks.
func shownSerial(ctx context.Context, w *town.Town, h *town.Host) (serial string, err error) {
	raw, err := w.Server.Dial(ctx, "tcp", h.IP.String()+":8080")
	if err != nil {
		return "", err
	}
	defer raw.Close()
	conn := tls.Client(raw, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"kerege"}, ServerName: "8080." + h.Service + ".test.example",
		VerifyConnection: func(s tls.ConnectionState) error {
			serial = s.PeerCertificates[0].SerialNumber.String()
			return nil
		}})
	err = conn.HandshakeContext(ctx) // without a certificate of our own it may fail; it has shown its own
	if serial != "" {
		err = nil
	}
	return serial, err
}

// forged sends what only Envoys may say, and looks at what the program is told.
func forged(t *testing.T, ctx context.Context, web *town.Host) {
	const lie = "forged-by-the-caller"
	args := []string{"curl", "-s", "--max-time", "5", api + "/headers",
		"-H", "x-forwarded-client-cert: By=x;URI=spiffe://test.example/svc/" + lie,
		"-H", "x-forwarded-client-cert: URI=spiffe://test.example/svc/" + lie}
	for _, name := range []string{"x-kerege-unreached", "x-kerege-caller", "x-envoy-retry-on", "x-envoy-original-path", "x-envoy-upstream-alt-stat-name",
		"x-envoy-external-address", "x-envoy-decorator-operation", "x-envoy-peer-metadata"} {
		args = append(args, "-H", name+": "+lie)
	}
	out, err := web.Output(ctx, lab.Spec{UID: town.UIDApp, Args: args})
	must(t, err)
	var a struct {
		Caller  string
		Headers map[string][]string
	}
	must(t, json.Unmarshal([]byte(out), &a))
	for name, values := range a.Headers {
		if slices.ContainsFunc(values, func(v string) bool { return strings.Contains(v, lie) }) {
			t.Errorf("reaches the program: %s: %q", name, values)
		}
		if strings.HasPrefix(strings.ToLower(name), "x-kerege-") {
			t.Errorf("a private header reaches the program: %s: %q", name, values)
		}
	}
	if got := a.Headers["X-Forwarded-Client-Cert"]; len(got) != 1 || got[0] != "URI=spiffe://test.example/svc/web" {
		t.Errorf("the caller's identity is %q", got)
	}
	t.Logf("identity header: %d bytes", len("x-forwarded-client-cert")+len(a.Caller))
}
