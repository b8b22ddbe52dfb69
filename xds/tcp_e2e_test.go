//go:build e2e

package xds

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kerege/kerege/mesh"
	"github.com/kerege/kerege/plan"
)

// banner is a server that speaks first, then echoes lines.
func banner(t *testing.T) (port uint16, accepted *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	accepted = &atomic.Int64{}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			accepted.Add(1)
			go func() {
				defer c.Close()
				fmt.Fprintln(c, "welcome")
				in := bufio.NewScanner(c)
				for in.Scan() {
					fmt.Fprintln(c, "you said", in.Text())
				}
			}()
		}
	}()
	return uint16(l.Addr().(*net.TCPAddr).Port), accepted
}

func talk(port uint16) (string, error) {
	c, err := net.DialTimeout("tcp", local(port).String(), time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(3 * time.Second))
	r := bufio.NewReader(c)
	first, err := r.ReadString('\n')
	if err != nil {
		return first, err
	}
	fmt.Fprintln(c, "hello")
	second, err := r.ReadString('\n')
	return first + second, err
}

const spoken = "welcome\nyou said hello\n"

func TestTCPCallersAreJudgedInTheHandshake(t *testing.T) {
	ca := newTestCA(t)
	app, accepted := banner(t)
	ports := freePorts(t, 4)
	policy := testPolicy("db", 5432, "web")
	db := startEnvoy(t, ca, destination(ca, testInbound("db", ports[0], 5432, mesh.ProtocolTCP, policy), app))
	up := testUpstream("db", 5432, mesh.ProtocolTCP, local(ports[0]))
	web := startEnvoy(t, ca, caller("web", map[uint16]*plan.Upstream{ports[1]: up}))
	evil := startEnvoy(t, ca, caller("evil", map[uint16]*plan.Upstream{ports[2]: up}))

	if said, err := talk(ports[1]); said != spoken {
		t.Fatalf("the allowed caller heard %q, %v", said, err)
	}
	n := accepted.Load()
	refused := func(what string, f func(net.Conn) net.Conn) {
		t.Helper()
		c, err := net.Dial("tcp", local(ports[0]).String())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(2 * time.Second))
		if b, _ := io.ReadAll(f(c)); strings.Contains(string(b), "welcome") {
			t.Errorf("%s heard %q", what, b)
		}
	}
	refused("bare TCP", func(c net.Conn) net.Conn { fmt.Fprintln(c, "hello"); return c })
	refused("TLS without a certificate", func(c net.Conn) net.Conn {
		return tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{alpnTCP}})
	})
	refused("a denied caller's certificate", func(c net.Conn) net.Conn {
		cert, key := ca.issue(t, testIdentity("evil").String())
		pair, err := tls.X509KeyPair(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		return tls.Client(c, &tls.Config{InsecureSkipVerify: true, NextProtos: []string{alpnTCP}, Certificates: []tls.Certificate{pair}})
	})
	if said, err := talk(ports[2]); said != "" || err == nil {
		t.Errorf("the denied caller heard %q, %v", said, err)
	}
	if accepted.Load() != n {
		t.Errorf("%d connections of denied callers reached the application", accepted.Load()-n)
	}

	t.Run("everyone but one", func(t *testing.T) {
		all := testPolicy("db", 5432)
		all.AnyCaller, all.Deniers = true, []mesh.Identity{testIdentity("web"), testIdentity("we")}
		db.apply(t, destination(ca, testInbound("db", ports[0], 5432, mesh.ProtocolTCP, all), app))
		eventually(t, 5*time.Second, func() error {
			if said, err := talk(ports[2]); said != spoken {
				return fmt.Errorf("the caller that is allowed now heard %q, %v", said, err)
			}
			return nil
		})
		if said, _ := talk(ports[1]); said != "" {
			t.Errorf("the caller that is denied now heard %q", said)
		}
	})
	t.Run("nobody", func(t *testing.T) {
		db.apply(t, destination(ca, testInbound("db", ports[0], 5432, mesh.ProtocolTCP, testPolicy("db", 5432)), app))
		eventually(t, 5*time.Second, func() error {
			if said, _ := talk(ports[2]); said != "" {
				return fmt.Errorf("it heard %q", said)
			}
			return nil
		})
	})
	for _, e := range []*runningEnvoy{db, web, evil} {
		e.clean(t)
	}
}
