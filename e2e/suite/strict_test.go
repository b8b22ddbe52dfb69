//go:build e2e

package suite

import (
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/kerege/kerege/agent/capture"
)

// A port that becomes strict keeps nobody who came without a certificate, and
// everybody who came with one.
func TestAPortThatBecomesStrictCutsPlaintext(t *testing.T) {
	ctx, w, text := openTown(t)
	every := strings.Replace(text, openBoth, "intention \"api\" {\n  allow { from = [\"*\"] }\n}\n", 1)
	permissive := strings.Replace(every, "service \"api\" {\n", "service \"api\" {\n  mtls = \"permissive\"\n", 1)
	must(t, w.Apply(ctx, permissive))
	out, err := w.Lab.Host("out")
	must(t, err)
	mine := hold(t, ctx, w.Hosts["web"], "tcp", "download", "grpc")
	plain := func(port, say string) net.Conn {
		var c net.Conn
		deadline := time.Now().Add(10 * time.Second) // for the proxy to be permissive
		for {
			must(t, capture.InNamespace("/run/netns/"+out.NS, func() (err error) {
				c, err = net.DialTimeout("tcp", w.Hosts["api"].IP.String()+":"+port, 3*time.Second)
				return err
			}))
			_, err := io.WriteString(c, say)
			must(t, err)
			must(t, c.SetReadDeadline(time.Now().Add(3*time.Second)))
			if _, err = io.ReadFull(c, make([]byte, 4)); err == nil {
				break
			}
			c.Close()
			if time.Now().After(deadline) {
				t.Fatalf("port %s without a certificate: %v", port, err)
			}
		}
		t.Cleanup(func() { c.Close() })
		return c
	}
	open := map[string]net.Conn{"tcp": plain("5432", ""), "download": plain("8080", "GET /long HTTP/1.1\r\nHost: api\r\n\r\n")}
	for what, c := range open {
		if err := ends(c, 1500*time.Millisecond); err == nil {
			t.Fatalf("the plaintext %s ended while the port is permissive", what)
		}
	}
	must(t, w.Apply(ctx, every))
	applied := time.Now()
	for what, c := range open {
		if err := ends(c, 5*time.Second); err != nil {
			t.Errorf("the plaintext %s: %v", what, err)
		}
		t.Logf("the plaintext %s had ended %d ms after apply returned", what, time.Since(applied).Milliseconds())
		if time.Since(applied) > 2*time.Second {
			t.Errorf("the plaintext %s ended late", what)
		}
	}
	goOn(t, ctx, mine)
	if log := w.Hosts["api"].Agent.Tail(1 << 16); !strings.Contains(log, "takes nobody without a certificate") {
		t.Errorf("the agent's log does not say why: %s", w.Hosts["api"].Agent.Tail(2000))
	}
}
