//go:build e2e

package suite

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kerege/kerege/e2e/lab"
	"github.com/kerege/kerege/e2e/town"
)

// One host's capture from outside and from inside: SSH, twice, undone, an Envoy
// that is dead, and leaving.
func TestCaptureOfAHost(t *testing.T) {
	ctx, w := newTown(t, false)
	web, err := w.AddHost(ctx, "web", "web", "v1")
	must(t, err)
	api1, err := w.AddHost(ctx, "api1", "api", "v1")
	must(t, err)
	web.CaptureExtra = "  on_envoy_down = \"bypass\"\n"
	must(t, w.StartServer(ctx, fmt.Sprintf(`mesh {
  trust_domain      = "test.example"
  mtls              = "permissive"
  default_intention = "allow"
  outbound          = "any"
}

service "web" {
  protocol = "http"
%s}

service "api" {
  protocol = "http"
%s}
`, instance(web), instance(api1))))
	_, err = web.Start(lab.Spec{Name: "sshd", Args: []string{w.App, "banner", "-listen", ":22"}})
	must(t, err)
	ssh := &watchedPort{t: t, from: api1.Host, addr: web.IP.String() + ":22"}
	must(t, lab.Until(ctx, 5*time.Second, "port 22", func() error { return ssh.ask(ctx) }))
	session, err := api1.Start(lab.Spec{Name: "session", Args: []string{w.App, "dial", "-addr", ssh.addr, "-wait", "170s"}})
	must(t, err)
	ssh.watch(ctx)
	for _, h := range []*town.Host{web, api1} {
		must(t, h.BringIn(ctx))
	}
	byIP := "http://" + api1.IP.String() + ":8080/"
	must(t, web.WaitFor(ctx, byIP, 200, 10*time.Second))

	t.Run("capture applied twice writes once", func(t *testing.T) {
		before, err := web.Rules(ctx)
		must(t, err)
		out, code := web.Kerege(ctx, "capture", "apply")
		if code != 0 || !strings.Contains(out, "nothing to write: the rules are there") {
			t.Errorf("exit %d: %s", code, out)
		}
		if after, err := web.Rules(ctx); err != nil || after != before || !strings.Contains(after, "KEREGE_OUT") {
			t.Errorf("before\n%s\nafter\n%s\n%v", before, after, err)
		}
		out, code = web.Kerege(ctx, "capture", "verify")
		if code != 0 {
			t.Errorf("verify: exit %d: %s", code, out)
		}
	})
	t.Run("what is not confirmed is undone", func(t *testing.T) {
		out, code := web.Kerege(ctx, "capture", "remove")
		if code != 0 {
			t.Fatalf("exit %d: %s", code, out)
		}
		same(t, ctx, web)
		out, code = web.Kerege(ctx, "capture", "apply", "-manual", "-undo", "1s")
		if code != 0 || !strings.Contains(out, "Undone by itself in") || !strings.Contains(out, "unless you confirm: kerege capture confirm") {
			t.Errorf("exit %d: %s", code, out)
		}
		must(t, lab.Until(ctx, 5*time.Second, "the capture to be undone", func() error {
			rules, err := web.Rules(ctx)
			if err == nil && rules != web.RulesBefore {
				return errText(rules)
			}
			return err
		}))
		must(t, web.Capture(ctx))
		must(t, web.WaitFor(ctx, "http://api.mesh:8080/", 200, 5*time.Second))
	})
	t.Run("Envoy is dead: bypass goes direct within a second, and back (E8)", func(t *testing.T) {
		web.Envoy.Kill()
		began := time.Now()
		must(t, web.WaitFor(ctx, byIP, 200, 5*time.Second))
		took := time.Since(began)
		must(t, web.StartEnvoy(ctx))
		must(t, web.WaitReady(ctx))
		ready := time.Now()
		var back time.Duration // when the first call that goes through began: one begun before may hang at an address that nothing routes
		must(t, lab.Until(ctx, 5*time.Second, "calls through Envoy again", func() error {
			back = time.Since(ready)
			return answers(ctx, web.Get, "http://api.mesh:8080/", "spiffe://test.example/svc/web")
		}))
		t.Logf("direct after %s; through Envoy again %s after it was ready", took, back)
		if took > time.Second || back > time.Second {
			t.Errorf("direct after %s, back after %s", took, back)
		}
	})
	t.Run("Envoy is dead: closed refuses quickly (E8)", func(t *testing.T) {
		api1.Envoy.Kill()
		began := time.Now()
		got, err := api1.Get(ctx, "http://"+web.IP.String()+":8080/")
		if err != nil || !strings.Contains(got, "refused") || time.Since(began) > 500*time.Millisecond {
			t.Errorf("%s after %s, %v", got, time.Since(began), err)
		}
		must(t, api1.StartEnvoy(ctx))
		must(t, api1.WaitReady(ctx))
		must(t, api1.WaitFor(ctx, "http://web.mesh:8080/", 200, 5*time.Second))
	})
	t.Run("leaving while the server is down says what to do", func(t *testing.T) {
		w.ServerProc.Kill()
		out, code := web.Kerege(ctx, "leave", "-timeout", "1")
		if code == 0 || !strings.Contains(out, "-force") {
			t.Errorf("exit %d: %s", code, out)
		}
		t.Logf("exit %d: %s", code, strings.TrimSpace(out))
		must(t, web.WaitFor(ctx, "http://api.mesh:8080/", 200, 5*time.Second))
		must(t, w.RunServer(ctx))
		must(t, lab.Until(ctx, 15*time.Second, "web to leave", func() error {
			if out, code := web.Kerege(ctx, "leave"); code != 0 {
				return fmt.Errorf("exit %d: %s", code, out)
			}
			return nil
		}))
		same(t, ctx, web)
	})
	ssh.end()
	select {
	case <-session.Done():
		t.Errorf("the session on port 22 ended: %s", session.Tail(300))
	default:
	}
}

// same fails the test when a host's rules are not what they were before kerege.
func same(t *testing.T, ctx context.Context, h *town.Host) {
	t.Helper()
	if rules, err := h.Rules(ctx); err != nil || rules != h.RulesBefore {
		t.Errorf("the rules are not as before: %v\n%s", err, rules)
	}
}

// watchedPort asks a port for its banner again and again (E6).
type watchedPort struct {
	t      *testing.T
	from   *lab.Host
	addr   string
	stop   context.CancelFunc
	done   chan struct{}
	asked  int
	failed []error
}

func (p *watchedPort) ask(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	c, err := p.from.Dial(ctx, "tcp", p.addr)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(time.Second))
	buf := make([]byte, 5)
	_, err = c.Read(buf)
	return err
}

func (p *watchedPort) watch(ctx context.Context) {
	ctx, p.stop = context.WithCancel(ctx)
	p.done = make(chan struct{})
	go func() {
		defer close(p.done)
		for ctx.Err() == nil {
			p.asked++
			if err := p.ask(ctx); err != nil && ctx.Err() == nil {
				p.failed = append(p.failed, err)
			}
			time.Sleep(50 * time.Millisecond)
		}
	}()
	p.t.Cleanup(func() { p.stop(); <-p.done })
}

func (p *watchedPort) end() {
	p.stop()
	<-p.done
	p.t.Logf("port 22 was asked %d times, %d failed", p.asked, len(p.failed))
	if len(p.failed) > 0 || p.asked < 20 {
		p.t.Errorf("port 22 was asked %d times and failed: %v", p.asked, p.failed)
	}
}
