//go:build e2e

package suite

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kerege/kerege/e2e/lab"
	"github.com/kerege/kerege/e2e/town"
)

const openBoth = `intention "api" {
  allow { from = ["web", "ops"] }
}
`

// streams are the ways to hold something open at api, by name.
var streams = map[string][]string{
	"tcp":      {"-tcp", "api.mesh:5432"},
	"download": {"-url", "http://api.mesh:8080/long"},
	"grpc":     {"-grpc", "api.mesh:9090"},
}

// openTown is web, on two hosts, and ops, which both call api; that serves a TCP
// server that speaks first, a long download and a gRPC stream.
func openTown(t *testing.T) (context.Context, *town.Town, string) {
	t.Helper()
	ctx, w := newTown(t, false)
	text := "mesh {\n  trust_domain = \"test.example\"\n}\n\n"
	for _, name := range []string{"web", "ops", "api"} {
		h, err := w.AddHost(ctx, name, name, "v1")
		must(t, err)
		text += fmt.Sprintf("service %q {\n  protocol = \"http\"\n%s", name, instance(h))
		if name == "web" {
			second, err := w.AddHost(ctx, "web2", "web", "v1")
			must(t, err)
			text += instance(second)
		}
		if name == "api" {
			h.Program = []string{"streams"}
			text += `
  port "http" {
    port = 8080
  }

  port "db" {
    port     = 5432
    protocol = "tcp"
  }

  port "rpc" {
    port     = 9090
    protocol = "grpc"
  }
`
		}
		text += "}\n\n"
	}
	text += openBoth
	must(t, w.StartServer(ctx, text))
	for _, name := range []string{"api", "ops", "web", "web2"} {
		must(t, w.Hosts[name].BringIn(ctx))
		if name != "api" {
			must(t, w.Hosts[name].WaitFor(ctx, api+"/short", 200, 15*time.Second))
		}
	}
	return ctx, w, text
}

// held is one stream of one caller.
type held struct {
	who, what string
	proc      *lab.Proc
}

var heldSoFar int

func hold(t *testing.T, ctx context.Context, h *town.Host, kinds ...string) (out []*held) {
	t.Helper()
	for _, kind := range kinds {
		heldSoFar++
		p, err := h.Start(lab.Spec{Name: fmt.Sprint("follow-", kind, heldSoFar), UID: town.UIDApp, Args: append([]string{h.App(), "follow"}, streams[kind]...)})
		must(t, err)
		x := &held{h.Name, kind, p}
		must(t, lab.Until(ctx, 10*time.Second, x.who+"'s "+kind+" to begin", func() error {
			if at, _ := x.last(); at == 0 {
				return errText("nothing came: " + p.Tail(300))
			}
			return nil
		}))
		out = append(out, x)
	}
	return out
}

// last is when it last went on (Unix ms; 0: never) and how it ended; "": it did not.
func (h *held) last() (at int64, end string) {
	for line := range strings.Lines(h.proc.Tail(1 << 16)) {
		f := strings.Fields(line)
		if len(f) < 3 {
			continue
		}
		ms, err := strconv.ParseInt(f[1], 10, 64)
		if err != nil {
			continue
		}
		if at = ms; f[0] == "end" {
			end = strings.TrimSpace(line)
		}
	}
	return at, end
}

// cutWithin fails the test unless each stream ends within the time, and logs when.
func cutWithin(t *testing.T, ctx context.Context, began, applied time.Time, limit time.Duration, list []*held) {
	t.Helper()
	for _, h := range list {
		var at int64
		if err := lab.Until(ctx, limit+2*time.Second, h.who+"'s "+h.what+" to end", func() (err error) {
			var end string
			if at, end = h.last(); end == "" {
				return errText("it goes on")
			}
			return nil
		}); err != nil {
			t.Error(err)
			continue
		}
		ended := time.UnixMilli(at)
		if ended.Before(began) || ended.Sub(applied) > limit {
			t.Errorf("%s's %s ended %s after apply returned", h.who, h.what, ended.Sub(applied))
		}
		t.Logf("%s's %s was cut %d ms after apply returned", h.who, h.what, ended.Sub(applied).Milliseconds())
	}
}

// goOn fails the test unless each stream goes on.
func goOn(t *testing.T, ctx context.Context, list []*held) {
	t.Helper()
	now := time.Now().UnixMilli()
	for _, h := range list {
		if err := lab.Until(ctx, 3*time.Second, h.who+"'s "+h.what+" to go on", func() error {
			at, end := h.last()
			if end != "" || at <= now {
				return fmt.Errorf("last at %d, %s", at, end)
			}
			return nil
		}); err != nil {
			t.Error(err)
		}
	}
}

func (h *held) stop() { h.proc.Kill() }

// A right that is lost ends what its caller holds open, and nobody else's.
func TestALostRightCutsWhatIsOpen(t *testing.T) {
	ctx, w, text := openTown(t)
	web, ops, dest := w.Hosts["web"], w.Hosts["ops"], w.Hosts["api"]
	all := []string{"tcp", "download", "grpc"}
	theirs := hold(t, ctx, ops, all...)
	without := func(rule string) string { return strings.Replace(text, openBoth, rule, 1) }
	// settle lets the agent hear of what has just been opened, calls after a quarter of a second.
	settle := func() { time.Sleep(500 * time.Millisecond) }
	lose := func(t *testing.T, rule string, list []*held) {
		t.Helper()
		began := time.Now()
		must(t, w.Apply(ctx, without(rule)))
		cutWithin(t, ctx, began, time.Now(), time.Second, list)
	}
	back := func(t *testing.T) {
		t.Helper()
		must(t, w.Apply(ctx, text))
		must(t, web.WaitFor(ctx, api+"/short", 200, 5*time.Second))
	}

	t.Run("its allow is taken out", func(t *testing.T) {
		mine := append(hold(t, ctx, web, all...), hold(t, ctx, w.Hosts["web2"], all...)...)
		settle()
		lose(t, "intention \"api\" {\n  allow { from = [\"ops\"] }\n}\n", mine)
		goOn(t, ctx, theirs)
		back(t)
	})
	t.Run("a deny by name, of a stream that has only just begun", func(t *testing.T) {
		mine := hold(t, ctx, web, all...)
		lose(t, "intention \"api\" {\n  allow { from = [\"*\"] }\n\n  deny {\n    name = \"web-out\"\n    from = [\"web\"]\n  }\n}\n", mine)
		goOn(t, ctx, theirs)
		if log := dest.Agent.Tail(1 << 16); !strings.Contains(log, `the deny block \"web-out\"`) && !strings.Contains(log, `the deny block "web-out"`) {
			t.Errorf("the agent's log does not say whose rule: %s", dest.Agent.Tail(2000))
		}
		back(t)
	})
	t.Run("a right to one path: the stream of another goes on", func(t *testing.T) {
		mine := hold(t, ctx, web, all...)
		settle()
		lose(t, "intention \"api\" {\n  allow { from = [\"ops\"] }\n\n  allow {\n    from  = [\"web\"]\n    ports = [\"db\", \"rpc\"]\n  }\n\n  allow {\n    from        = [\"web\"]\n    path_prefix = \"/short\"\n  }\n}\n", mine[1:2])
		goOn(t, ctx, []*held{mine[0], mine[2]})
		goOn(t, ctx, theirs)
		for _, h := range mine {
			h.stop()
		}
		back(t)
	})
	t.Run("no change of rules cuts who keeps the right", func(t *testing.T) {
		mine := hold(t, ctx, web, all...)
		settle()
		must(t, w.Apply(ctx, without("intention \"api\" {\n  allow { from = [\"*\"] }\n}\n")))
		must(t, w.Apply(ctx, without("intention \"api\" {\n  allow { from = [\"web\", \"ops\", \"new\"] }\n}\n")))
		time.Sleep(1500 * time.Millisecond)
		goOn(t, ctx, append(mine, theirs...))
		for _, h := range mine {
			h.stop()
		}
		back(t)
	})
	t.Run("open = finish", func(t *testing.T) {
		mine := hold(t, ctx, web, all...)
		settle()
		must(t, w.Apply(ctx, without("intention \"api\" {\n  open = \"finish\"\n\n  allow { from = [\"ops\"] }\n}\n")))
		must(t, web.WaitFor(ctx, api+"/short", 403, 5*time.Second))
		time.Sleep(1500 * time.Millisecond)
		goOn(t, ctx, append(mine, theirs...))
		// The same without it: the change of one word cuts.
		lose(t, "intention \"api\" {\n  allow { from = [\"ops\"] }\n}\n", mine)
		goOn(t, ctx, theirs)
		back(t)
	})
	t.Run("the agent was away in between", func(t *testing.T) {
		mine := hold(t, ctx, web, all...)
		settle()
		dest.Agent.Kill()
		late := hold(t, ctx, web, all...)
		must(t, dest.StartAgent(ctx))
		must(t, dest.WaitReady(ctx))
		time.Sleep(11 * time.Second) // Envoy tells of what is open again
		lose(t, "intention \"api\" {\n  allow { from = [\"ops\"] }\n}\n", []*held{mine[0], late[0]})
		// A running call is told of again every ten seconds on average.
		cutWithin(t, ctx, time.Time{}, time.Now(), 90*time.Second, []*held{mine[1], mine[2], late[1], late[2]})
		goOn(t, ctx, theirs)
		back(t)
	})
}
