//go:build e2e

package suite

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kerege/kerege/e2e/lab"
	"github.com/kerege/kerege/e2e/town"
)

// Server, agent and Envoy are each killed and started again alone, while traffic goes on.
func TestEachPartIsKilledAlone(t *testing.T) {
	ctx, w, text := pair(t, allowWeb)
	web, api1 := w.Hosts["web"], w.Hosts["api1"]
	must(t, web.WaitFor(ctx, api+"/", 200, 10*time.Second))

	t.Run("server, while a change is on its way (C5)", func(t *testing.T) {
		r, err := web.LoadDuring(ctx, api+"/", 100, 5*time.Second, func() error {
			go w.Apply(ctx, text+"\n# another generation\n")
			time.Sleep(20 * time.Millisecond)
			w.ServerProc.Signal(syscall.SIGKILL)
			<-w.ServerProc.Done()
			time.Sleep(time.Second)
			return w.RunServer(ctx)
		})
		must(t, err)
		none(t, "server killed", r)
	})
	t.Run("agent", func(t *testing.T) {
		r, err := web.LoadDuring(ctx, api+"/", 100, 5*time.Second, func() error {
			web.Agent.KillAlone()
			time.Sleep(time.Second)
			return web.StartAgent(ctx)
		})
		must(t, err)
		none(t, "caller's agent killed", r)
	})
	t.Run("agent away for 10 s, each call on a new connection", func(t *testing.T) {
		r, err := web.LoadDuring(ctx, api+"/", 100, 14*time.Second, func() error {
			web.Agent.KillAlone()
			time.Sleep(10 * time.Second)
			return web.StartAgent(ctx)
		}, "-fresh")
		must(t, err)
		none(t, "caller's agent away", r)
	})
	t.Run("agent killed again and again", func(t *testing.T) {
		r, err := web.LoadDuring(ctx, api+"/", 100, 10*time.Second, func() error {
			for range 5 { // each when it has a stand-in of its own: before that, a name may wait for a second
				web.Agent.KillAlone()
				if err := web.StartAgent(ctx); err != nil {
					return err
				}
				time.Sleep(1500 * time.Millisecond)
			}
			return nil
		}, "-fresh")
		must(t, err)
		none(t, "caller's agent killed again and again", r)
		must(t, lab.Until(ctx, 10*time.Second, "one stand-in to be left", func() error {
			return standIns(web, 1)
		}))
	})
	t.Run("server away, agent restarted: names still resolve", func(t *testing.T) {
		w.ServerProc.Kill()
		web.Agent.Kill()
		must(t, web.StartAgent(ctx))
		must(t, web.WaitFor(ctx, api+"/", 200, 5*time.Second))
		r, err := web.Load(ctx, api+"/", 100, 2*time.Second, "-fresh")
		must(t, err)
		none(t, "server away", r)
	})
	t.Run("Envoy, with every server away (C2, C4)", func(t *testing.T) {
		began := time.Now()
		web.Envoy.Kill()
		must(t, web.StartEnvoy(ctx))
		must(t, web.WaitFor(ctx, api+"/", 200, 10*time.Second))
		took := time.Since(began)
		t.Logf("Envoy from the agent's disk: %s", took)
		if took > 2*time.Second {
			t.Errorf("Envoy served after %s, not within 2 s", took)
		}
	})
	t.Run("a whole host, with every server away", func(t *testing.T) {
		for _, p := range []*lab.Proc{api1.Agent, api1.Envoy, api1.Prog} {
			p.Kill()
		}
		began := time.Now()
		must(t, api1.StartAgent(ctx))
		must(t, api1.StartProgram(ctx))
		must(t, api1.StartEnvoy(ctx))
		must(t, lab.Until(ctx, 20*time.Second, "v1 to answer again", func() error {
			return answers(ctx, web.Get, api+"/", `\"version\":\"v1\"`)
		}))
		took := time.Since(began)
		t.Logf("host from its own disk: %s", took)
		if took > 5*time.Second {
			t.Errorf("the host served after %s, not within 5 s", took)
		}
	})
}

// Consul's own names keep their virtual addresses while the caller's agent is
// away: their real ones would be refused, for the service is strict.
func TestConsulNamesWithTheAgentAway(t *testing.T) {
	ctx, w := consulTown(t)
	must(t, w.StartServer(ctx, strings.Replace(adopting, `"permissive"`, `"strict"`, 1)))
	for _, name := range []string{"api1", "api2", "web"} {
		must(t, w.Hosts[name].BringInRunning(ctx))
	}
	web, url := w.Hosts["web"], "http://api.service.consul:8080/"
	must(t, web.WaitFor(ctx, url, 200, 10*time.Second))
	r, err := web.LoadDuring(ctx, url, 100, 8*time.Second, func() error {
		web.Agent.KillAlone()
		time.Sleep(5 * time.Second)
		return web.StartAgent(ctx)
	}, "-fresh")
	must(t, err)
	none(t, "caller's agent away, by Consul's name", r)
	t.Run("the stand-in is ended too: the jump goes, and other names resolve", func(t *testing.T) {
		must(t, lab.Until(ctx, 10*time.Second, "one stand-in", func() error { return standIns(web, 1) }))
		web.Agent.Kill() // with all that it started, as out of memory may
		if out, code := web.Kerege(ctx, "capture", "remove", "-if-orphaned", "-state-dir", web.Dir+"/data/capture"); code != 0 {
			t.Fatalf("what systemd does then: %d: %s", code, out)
		}
		out, err := web.Output(ctx, lab.Spec{UID: town.UIDApp, Args: []string{"getent", "ahostsv4", "api.service.consul"}})
		if err != nil || strings.HasPrefix(out, "2") || !strings.Contains(out, "10.77.") {
			t.Errorf("resolved %q, %v", out, err)
		}
	})
}

// standIns counts the processes that stand in for the agents of a host.
func standIns(h *town.Host, want int) error {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return err
	}
	n := 0
	for _, file := range files {
		if text, err := os.ReadFile(file); err == nil && strings.Contains(string(text), "capture\x00guard\x00-state-dir\x00"+h.Dir) {
			n++
		}
	}
	if n != want {
		return fmt.Errorf("%d are there", n)
	}
	return nil
}

func answers(ctx context.Context, get func(context.Context, string) (string, error), url, part string) error {
	got, err := get(ctx, url)
	if err == nil && !strings.Contains(got, part) {
		return errText(got)
	}
	return err
}

type errText string

func (e errText) Error() string { return "got " + string(e) }

// A program dies behind a living Envoy; an Envoy dies; a host vanishes.
func TestInstancesDie(t *testing.T) {
	ctx, w, _ := pair(t, allowWeb)
	web, api2 := w.Hosts["web"], w.Hosts["api2"]
	must(t, web.WaitFor(ctx, api+"/", 200, 10*time.Second))

	t.Run("the program, ten times, while it has calls", func(t *testing.T) {
		total := 0
		for i := range 10 {
			dead := []*town.Host{api2, w.Hosts["api1"]}[i%2]
			r, err := web.LoadDuring(ctx, api+"/slow/40ms", 200, time.Second, func() error {
				time.Sleep(400 * time.Millisecond)
				dead.Prog.Kill()
				return nil
			})
			must(t, err)
			none(t, "program killed", r)
			total += r.Calls
			must(t, dead.StartProgram(ctx))
			bothAnswer(t, ctx, web.Load)
		}
		t.Logf("%d calls in all", total)
	})
	t.Run("its proxy, while it has calls", func(t *testing.T) {
		r, err := web.LoadDuring(ctx, api+"/slow/40ms", 200, 2*time.Second, func() error {
			time.Sleep(time.Second)
			api2.Envoy.Kill()
			return nil
		})
		must(t, err)
		none(t, "proxy killed", r)
		must(t, api2.StartEnvoy(ctx))
		must(t, api2.WaitReady(ctx))
		bothAnswer(t, ctx, web.Load)
	})
	t.Run("POST: what never reached the program is tried again too", func(t *testing.T) {
		api2.Prog.Kill()
		r, err := web.Load(ctx, api+"/", 100, 2*time.Second, "-method", "POST")
		must(t, err)
		none(t, "POST to a dead program", r)
		must(t, api2.StartProgram(ctx))
		bothAnswer(t, ctx, web.Load)
	})
	t.Run("the whole host: its cable is pulled", func(t *testing.T) {
		var pulled time.Time
		began := time.Now()
		r, err := web.LoadDuring(ctx, api+"/", 100, 6*time.Second, func() error {
			time.Sleep(2 * time.Second)
			pulled = time.Now()
			return api2.Unplug()
		})
		must(t, err)
		must(t, api2.Plug())
		t.Logf("cable pulled: %d calls, %d failed, first %s last %s, pulled at %s", r.Calls, r.Failed, r.First, r.Last, pulled.Sub(began))
		if r.Failed > 60 {
			t.Errorf("more failed than was sent to that host within a second: %+v", r)
		}
		if r.Last != "" {
			if last, err := time.ParseDuration(r.Last); err != nil || last > pulled.Sub(began)+time.Second+200*time.Millisecond {
				t.Errorf("calls failed until %s; the cable was pulled at %s", r.Last, pulled.Sub(began))
			}
		}
	})
}
