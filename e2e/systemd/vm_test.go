//go:build e2e

package systemd

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kerege/kerege/e2e/lab"
	"github.com/kerege/kerege/e2e/town"
)

const vmMesh = `mesh {
  trust_domain = "prod.example"
}

defaults "*" {
  protocol = "http"
}

intention "api" {
  allow { from = ["web"] }
}

intention "web" {
  allow { from = ["api"] }
}
`

const api = "http://api.mesh:8080/"

// A service on a VM, typed as the page says, with load and faults in between.
func TestServiceOnAVM(t *testing.T) {
	ctx, w := newTown(t, true)
	must(t, w.StartConsul(ctx))
	must(t, w.StartServer(ctx, vmMesh))
	other, err := w.AddHost(ctx, "vm-13", "api", "v1")
	must(t, err)
	vm, err := w.AddHost(ctx, "vm-12", "web", "v1")
	must(t, err)
	must(t, w.Register(ctx, other))
	must(t, other.BringIn(ctx))
	must(t, w.Register(ctx, vm))
	r := newRoot(t, w, vm.Host)
	must(t, r.Write("/etc/resolv.conf", "nameserver "+w.ConsulHost.IP.String()+"\noptions timeout:1 attempts:2\n"))
	must(t, r.Boot(ctx))
	run(t, ctx, r, "useradd --system --no-create-home web")
	p := readPage(t, "vm.md", w, r)
	web := program{r, "web"}

	p.section(ctx, 0) // web.service
	run(t, ctx, r, "systemctl daemon-reload && systemctl enable --now web 2>&1")
	before := tables(t, ctx, r)
	for n := 1; n <= 5; n++ {
		p.section(ctx, n)
	}
	web.waitFor(t, ctx, api, "200 ")
	must(t, other.WaitFor(ctx, "http://web.mesh:8080/", 200, 10*time.Second))
	notRoot(t, ctx, r)
	probes(t, ctx, r)

	t.Run("restarts under load", func(t *testing.T) { restarts(t, ctx, r, web, other) })
	t.Run("agent and stand-in are killed, and stay away", func(t *testing.T) { orphaned(t, ctx, r) })
	web.waitFor(t, ctx, api, "200 ")
	p.section(ctx, 6)

	t.Run("reboot with every server away", func(t *testing.T) {
		w.ServerProc.Kill()
		w.ConsulProc.Kill()
		p.t, p.reboot = t, func(ctx context.Context) { rebooted(t, ctx, r) }
		p.section(ctx, 7)
		p.t = nil
		web.waitFor(t, ctx, api, "200 ")
		must(t, other.WaitFor(ctx, "http://web.mesh:8080/", 200, 10*time.Second))
	})
	p.t = t
	must(t, w.StartConsul(ctx))
	must(t, w.Register(ctx, other))
	must(t, w.Register(ctx, vm))
	must(t, w.RunServer(ctx))
	must(t, lab.Until(ctx, 20*time.Second, "the agent to find its server", func() error {
		if out, _ := r.Run(ctx, "systemctl status kerege-agent"); !strings.Contains(out, "1 of 1 workloads in the mesh, connected") {
			return errText(out)
		}
		return nil
	}))
	p.section(ctx, 8)
	if after := tables(t, ctx, r); after != before {
		t.Errorf("the tables are not what they were:\nbefore\n%s\nafter\n%s", before, after)
	}
	if out := run(t, ctx, r, "systemctl is-active web; pgrep -l kerege; pgrep -l envoy; true"); strings.TrimSpace(out) != "active" {
		t.Errorf("what is left: %s", out)
	}
}

// tables is all that capture may write to: rules of both families, and routes.
func tables(t *testing.T, ctx context.Context, r *Root) string {
	t.Helper()
	return lab.NormaliseRules(run(t, ctx, r, "iptables-save && ip6tables-save")) + "\n" +
		run(t, ctx, r, "ip rule; ip -6 rule; ip route show table all | grep -v '^broadcast\\|^local'; ip -6 route show table all | grep -v '^local\\|^ff00\\|^multicast' | sed 's/ expires [0-9]*sec//'")
}

// notRoot: agent and Envoy run as their own users, with no more than their units say.
func notRoot(t *testing.T, ctx context.Context, r *Root) {
	t.Helper()
	for unit, user := range map[string]string{"kerege-agent": "kerege", "kerege-envoy@web": "kerege-envoy-web"} {
		out := run(t, ctx, r, fmt.Sprintf("ps -o user:32= -p $(systemctl show -P MainPID %s)", unit))
		if strings.TrimSpace(out) != user {
			t.Errorf("%s runs as %q", unit, out)
		}
	}
	if out := run(t, ctx, r, "systemctl show -P ControlGroup kerege-envoy@web"); !strings.HasPrefix(out, "/kerege.slice/") {
		t.Errorf("the proxy is in %s", out)
	}
}

// probes: the agent's own look at the capture passes, although it is not root.
func probes(t *testing.T, ctx context.Context, r *Root) {
	t.Helper()
	if out, code := r.Run(ctx, "kerege capture verify"); code != 0 {
		t.Errorf("kerege capture verify: exit %d: %s", code, out)
	}
}

// load is a program's calls while something is done, counted.
func load(t *testing.T, ctx context.Context, p program, what, flags string, do string) town.Report {
	t.Helper()
	cmd := p.r.Command(ctx, p.line("app load -url "+api+" -rate 100 -for 6s "+flags))
	var out strings.Builder
	cmd.Stdout = &out
	must(t, cmd.Start())
	time.Sleep(time.Second) // of ordinary calls
	run(t, ctx, p.r, do)
	must(t, cmd.Wait())
	var rep town.Report
	must(t, json.Unmarshal([]byte(out.String()), &rep))
	t.Logf("%s: %d calls, %d failed (%v), first %s last %s, p50 %s p99 %s max %s", what, rep.Calls, rep.Failed, rep.Errors, rep.First, rep.Last, rep.P50, rep.P99, rep.Max)
	if rep.Calls < 400 || rep.ByCode["403"] > 0 {
		t.Errorf("%s: %+v", what, rep)
	}
	return rep
}

// orphaned: where nobody answers names the jump of DNS goes with the agent's
// unit, and the rules stay; both are back with the agent.
func orphaned(t *testing.T, ctx context.Context, r *Root) {
	jumps := func() (dns, rules bool) {
		out := run(t, ctx, r, "iptables-save")
		return strings.Contains(out, "--dport 53"), strings.Contains(out, "-j KEREGE_OUT")
	}
	if dns, rules := jumps(); !dns || !rules {
		t.Fatalf("before: jump of DNS %t, rules %t", dns, rules)
	}
	run(t, ctx, r, "mkdir -p /run/systemd/system/kerege-agent.service.d && printf '[Service]\\nRestart=no\\n' > /run/systemd/system/kerege-agent.service.d/once.conf && systemctl daemon-reload")
	run(t, ctx, r, "systemctl kill -s KILL --kill-whom=all kerege-agent")
	must(t, lab.Until(ctx, 10*time.Second, "the unit to end", func() error {
		if out, _ := r.Run(ctx, "systemctl is-active kerege-agent"); strings.TrimSpace(out) != "failed" {
			return errText(out)
		}
		return nil
	}))
	if dns, rules := jumps(); dns || !rules {
		t.Errorf("without an agent: jump of DNS %t, rules %t", dns, rules)
	}
	run(t, ctx, r, "rm -r /run/systemd/system/kerege-agent.service.d; systemctl daemon-reload; systemctl reset-failed kerege-agent; systemctl start kerege-agent")
	if dns, rules := jumps(); !dns || !rules {
		t.Errorf("with an agent again: jump of DNS %t, rules %t", dns, rules)
	}
}

func restarts(t *testing.T, ctx context.Context, r *Root, web program, other *town.Host) {
	// Its own calls go on captured: api answers nobody else's.
	if rep := load(t, ctx, web, "application restarted", "", "systemctl restart web"); rep.Failed > 0 {
		t.Errorf("application restarted: %+v", rep)
	}
	must(t, other.WaitFor(ctx, "http://web.mesh:8080/", 200, 5*time.Second))
	probes(t, ctx, r)
	if rep := load(t, ctx, web, "agent restarted", "", "systemctl restart kerege-agent"); rep.Failed > 0 {
		t.Errorf("agent restarted: %+v", rep)
	}
	if rep := load(t, ctx, web, "agent restarted, each call asks for the name", "-fresh", "systemctl restart kerege-agent"); rep.Failed > 0 {
		t.Errorf("agent restarted, fresh connections: %+v", rep)
	}
	if rep := load(t, ctx, web, "agent killed, each call asks for the name", "-fresh", "systemctl kill -s KILL --kill-who=main kerege-agent"); rep.Failed > 0 {
		t.Errorf("agent killed: %+v", rep)
	}
	reloads(t, ctx, r, web)
	slow := r.Command(ctx, web.line("curl -s -o /dev/null -w '%{http_code}' "+api+"slow/2s"))
	var status strings.Builder
	slow.Stdout = &status
	must(t, slow.Start())
	must(t, lab.Until(ctx, 5*time.Second, "the slow call to be under way", func() error {
		out, _ := r.Run(ctx, "curl -s --unix-socket /run/kerege/proxy/web/admin.sock http://envoy/stats?filter=downstream_rq_active")
		if !strings.Contains(out, "active: 1") {
			return errText(out)
		}
		return nil
	}))
	run(t, ctx, r, "systemctl restart kerege-envoy@web")
	if err := slow.Wait(); err != nil || status.String() != "200" {
		t.Errorf("a call in flight while Envoy was restarted: %v %s", err, status.String())
	}
	// What is lost is what is called between two Envoys: bounded by the time between them.
	if rep := load(t, ctx, web, "Envoy restarted", "-fresh", "systemctl restart kerege-envoy@web"); rep.Failed > 300 {
		t.Errorf("Envoy restarted: more than 3 s of calls failed: %+v", rep)
	}
	if rep := load(t, ctx, web, "Envoy killed", "-fresh", "systemctl kill -s KILL kerege-envoy@web"); rep.Failed > 300 {
		t.Errorf("Envoy killed: more than 3 s of calls failed: %+v", rep)
	}
	web.waitFor(t, ctx, api, "200 ")
}

// reloads: a new Envoy takes over, from itself, by signal and of a new program, and
// one that cannot is said and changes nothing.
func reloads(t *testing.T, ctx context.Context, r *Root, web program) {
	t.Helper()
	envoys := func() string { return run(t, ctx, r, "pgrep -u kerege-envoy-web -x envoy | sort | xargs") }
	before := envoys()
	for _, flags := range []string{"", "-fresh"} {
		if rep := load(t, ctx, web, "Envoy reloaded "+flags, flags, "systemctl reload kerege-envoy@web"); rep.Failed > 0 {
			t.Errorf("Envoy reloaded %s: %+v", flags, rep)
		}
	}
	if rep := load(t, ctx, web, "Envoy reloaded by signal", "-fresh", "systemctl kill -s HUP --kill-who=main kerege-envoy@web"); rep.Failed > 0 {
		t.Errorf("Envoy reloaded by signal: %+v", rep)
	}
	bad := load(t, ctx, web, "a reload with a program that is not Envoy", "-fresh", "printf '#!/bin/sh\nexit 1\n' > /usr/local/bad; chmod 755 /usr/local/bad; mount --bind /usr/local/bad /usr/bin/envoy; "+
		"systemctl reload kerege-envoy@web; code=$?; umount /usr/bin/envoy; journalctl -b -u kerege-envoy@web --no-pager | grep 'the one before serves on'; systemctl is-active kerege-envoy@web && test $code != 0")
	if bad.Failed > 0 {
		t.Errorf("a reload that fails: %+v", bad)
	}
	if after := envoys(); after == before {
		t.Errorf("the same Envoys run after three reloads: %s", after)
	}
}

// rebooted powers the root off and boots it again, and finds capture back before
// the program was started.
func rebooted(t *testing.T, ctx context.Context, r *Root) {
	t.Helper()
	// A program that is ordered after the agent alone sees the rules, too.
	must(t, r.Write("/etc/systemd/system/early.service", "[Unit]\nWants=kerege-agent.service\nAfter=kerege-agent.service\n"+
		"[Service]\nType=oneshot\nExecStart=/bin/sh -c 'iptables-save -t nat > /root/early.rules'\n[Install]\nWantedBy=multi-user.target\n"))
	run(t, ctx, r, "systemctl enable early 2>&1")
	must(t, r.PowerOff(ctx))
	if rules, err := r.Rules(ctx); err != nil || strings.Contains(rules, "KEREGE") {
		t.Fatalf("rules outlived the reboot: %v\n%s", err, rules)
	}
	// The program says what it finds as the first thing it does.
	must(t, r.Write("/etc/systemd/system/web.service.d/witness.conf",
		"[Service]\nExecStartPre=+/bin/sh -c 'iptables-save -t nat > /root/witness.rules'\nExecStartPre=/usr/bin/timeout 5 /bin/sh -c 'echo | app hold -url "+api+"'\n"))
	began := time.Now()
	must(t, r.Boot(ctx))
	t.Logf("booted, captured and serving after %s", time.Since(began).Round(time.Millisecond))
	for _, witness := range []string{"witness", "early"} {
		if out := run(t, ctx, r, "cat /root/"+witness+".rules"); !strings.Contains(out, "KEREGE") {
			t.Errorf("%s was started before capture was back:\n%s", witness, out)
		}
	}
	out := run(t, ctx, r, "systemctl show -P ActiveEnterTimestampMonotonic kerege-agent kerege-envoy@web; systemctl show -P InactiveExitTimestampMonotonic web")
	var agent, envoy, app int64
	if _, err := fmt.Sscan(out, &agent, &envoy, &app); err != nil || agent == 0 || agent >= envoy || envoy >= app {
		t.Errorf("up since (µs): agent, Envoy, and the program's start: %s %v", strings.Fields(out), err)
	}
	if out := run(t, ctx, r, "journalctl -b -u web --no-pager"); !strings.Contains(out, "200 new") {
		t.Errorf("the program's first call: %s", out)
	}
	run(t, ctx, r, "systemctl disable early 2>&1; rm /etc/systemd/system/web.service.d/witness.conf /etc/systemd/system/early.service /root/*.rules; systemctl daemon-reload")
}
