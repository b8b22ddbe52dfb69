//go:build e2e

package lab

import (
	"context"
	"strings"
	"testing"
	"time"
)

func TestTwoHostsReachEachOther(t *testing.T) {
	l, err := New("krlab")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	a, err := l.Host("a")
	if err != nil {
		t.Fatal(err)
	}
	b, err := l.Host("b")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	reach := func() error {
		_, err := a.Output(ctx, Spec{Args: []string{"bash", "-c", "echo > /dev/tcp/" + b.IP.String() + "/9"}})
		if err != nil && strings.Contains(err.Error(), "refused") {
			return nil // b answered
		}
		return err
	}
	if err := Until(ctx, 5*time.Second, "a to reach b", reach); err != nil {
		t.Fatal(err)
	}
	out, err := a.Output(ctx, Spec{Args: []string{"sh", "-c", "cat /etc/resolv.conf; id -u"}, UID: 4242})
	if err != nil || !strings.Contains(out, "10.77.0.1") || !strings.Contains(out, "4242") {
		t.Fatalf("got %q, %v", out, err)
	}
	p, err := b.Start(Spec{Name: "sleep", Args: []string{"sleep", "60"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Stop(time.Second); err != nil {
		t.Fatal(err)
	}
}
