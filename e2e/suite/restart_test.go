//go:build e2e

package suite

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kerege/kerege/e2e/lab"
)

// An agent that is stopped as systemctl restart does it costs no call, by mesh name
// or Consul's; and what it says of itself is true on a host with a real capture.
func TestAnAgentIsRestartedUnderLoad(t *testing.T) {
	ctx, w := consulTown(t)
	must(t, w.StartServer(ctx, strings.Replace(adopting, `"permissive"`, `"strict"`, 1)))
	for _, name := range []string{"api1", "api2", "web"} {
		must(t, w.Hosts[name].BringInRunning(ctx))
	}
	web, url := w.Hosts["web"], "http://api.service.consul:8080/"
	must(t, web.WaitFor(ctx, url, 200, 10*time.Second))
	metrics := func() string {
		out, err := web.Output(ctx, lab.Spec{Args: []string{"curl", "-s", "--max-time", "5", "--unix-socket", web.Dir + "/run/agent/api.sock", "http://agent/metrics"}})
		must(t, err)
		return out
	}
	r, err := web.LoadDuring(ctx, url, 100, 8*time.Second, func() error {
		if err := web.Agent.Signal(syscall.SIGTERM); err != nil {
			return err
		}
		select {
		case <-web.Agent.Done():
		case <-time.After(5 * time.Second):
			return fmt.Errorf("it does not stop: %s", web.Agent.Tail(1000))
		}
		time.Sleep(3 * time.Second)
		got, err := web.Get(ctx, "http://api.mesh:8080/")
		prefixed(t, got, "200 ", err)
		return web.StartAgent(ctx)
	}, "-fresh")
	must(t, err)
	none(t, "caller's agent restarted", r)
	must(t, lab.Until(ctx, 10*time.Second, "the new agent to stand", func() error {
		if text := metrics(); !strings.Contains(text, "kerege_agent_up 1\n") {
			return fmt.Errorf("it says\n%s", text)
		}
		return nil
	}))
	must(t, lab.Until(ctx, 10*time.Second, "one stand-in", func() error { return standIns(web, 1) }))
	must(t, web.WaitFor(ctx, url, 200, 10*time.Second))
	must(t, lab.Until(ctx, 10*time.Second, "its metrics to settle", func() error {
		text := metrics()
		for _, line := range []string{"kerege_agent_capture_applied 1", "kerege_agent_capture_settled 1", `kerege_agent_workloads{state="in"} 1`, `kerege_agent_proxies{source="live"} 1`,
			"kerege_agent_envoys 1", "kerege_agent_server_connected 1"} {
			if !strings.Contains(text, line+"\n") {
				return fmt.Errorf("it does not say %s:\n%s", line, text)
			}
		}
		if strings.Contains(text, `kerege_agent_dns_answers_total{from="mesh"} 0`) {
			return fmt.Errorf("it has answered no name")
		}
		return nil
	}))
}
