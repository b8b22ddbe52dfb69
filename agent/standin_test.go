package agent

import (
	"bytes"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/kerege/kerege/agent/dns"
)

// TestNoQuestionIsLostBetweenTwoResolvers: copies of a resolver's sockets take
// what was asked while nobody answered, and the next one may open the same port
// meanwhile.
func TestNoQuestionIsLostBetweenTwoResolvers(t *testing.T) {
	first, err := listenPair(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := first.packets.LocalAddr().String()
	kept, err := first.packets.File()
	if err != nil {
		t.Fatal(err)
	}
	first.packets.Close()
	first.streams.Close()
	asker, err := net.Dial("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer asker.Close()
	// api.mesh, type A
	question := "\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03api\x04mesh\x00\x00\x01\x00\x01"
	if _, err := asker.Write([]byte(question)); err != nil {
		t.Fatal(err)
	}
	copied, err := net.FilePacketConn(kept)
	kept.Close()
	if err != nil {
		t.Fatal(err)
	}
	second, err := listenPair(t.Context(), address)
	if err != nil {
		t.Fatalf("the next one cannot open the port: %v", err)
	}
	defer second.packets.Close()
	s := dns.New(dns.Options{})
	s.SetNames(dnsNames([]name{{Service: "api", V4: "240.0.0.9"}}))
	s.Serve(copied, second.streams)
	defer s.Close()
	answer := make([]byte, 512)
	if err := asker.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	n, err := asker.Read(answer)
	if err != nil || n < 4 || !bytes.Contains(answer[:n], []byte("\xf0\x00\x00\x09")) {
		t.Fatalf("answered %x, %v", answer[:n], err)
	}
}

// TestAStandInStepsInOnlyForTheDead: a byte says that the agent stopped in order.
func TestAStandInStepsInOnlyForTheDead(t *testing.T) {
	for _, c := range []struct {
		last string
		want bool
	}{{"q", false}, {"", true}} {
		dir := t.TempDir()
		if err := os.MkdirAll(filepath.Join(dir, "capture"), 0o700); err != nil {
			t.Fatal(err)
		}
		in, out := io.Pipe()
		stepped := false
		r := &endReader{in, func() { stepped = true }}
		done := make(chan error, 1)
		go func() {
			_, err := io.ReadAll(r)
			done <- err
		}()
		if c.last != "" {
			_, _ = out.Write([]byte(c.last))
			out.CloseWithError(io.ErrUnexpectedEOF) // Guard does not read on
		} else {
			out.Close()
		}
		<-done
		if stepped != c.want {
			t.Errorf("after %q it stepped in: %v", c.last, stepped)
		}
		// Nothing is captured: it ends by itself, and an unreadable line is no end.
		in, out = io.Pipe()
		go func() { _, _ = out.Write([]byte("no json\n" + c.last)); out.Close() }()
		if err := StandIn(t.Context(), filepath.Join(dir, "capture"), in, hclog.NewNullLogger()); err != nil {
			t.Error(err)
		}
	}
}
