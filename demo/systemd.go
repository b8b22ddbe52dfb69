package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/kerege/kerege/e2e/lab"
	"github.com/kerege/kerege/e2e/systemd"
	"github.com/kerege/kerege/e2e/town"
)

// machine is the story's host with a real systemd.
type machine struct {
	*telling
	vm *systemd.Root
}

// tellSystemd tells of one host with a real systemd, from the shipped units to a reboot.
func tellSystemd(ctx context.Context) (err error) {
	s := newStory()
	fmt.Println("kerege demo: a service on a VM, under a real systemd with the shipped units")
	t, err := town.New("krdemo", "bin", false)
	if err != nil {
		return err
	}
	m := &machine{telling: &telling{story: s, t: t}}
	defer func() {
		if m.vm != nil {
			err = errors.Join(err, m.vm.Close())
		}
		err = errors.Join(err, t.Close())
	}()
	fmt.Printf("touches: network namespaces krdemo-* inside a namespace of its own, %s, one cgroup kr-systemd-*; nothing else on this machine\n", t.Lab.Dir)
	for _, chapter := range []func(context.Context) error{m.boot, m.join, m.capture, m.restart, m.reboot, m.out} {
		if err := chapter(ctx); err != nil {
			return err
		}
	}
	fmt.Printf("\nAll of it was so. %.0f s.\n", time.Since(s.began).Seconds())
	return nil
}

// typed runs a line on the VM and shows it; what it prints is returned.
func (m *machine) typed(ctx context.Context, line, in string) (string, error) {
	fmt.Printf("    %-14s  # %s\n", "vm-12", line)
	out, code := m.vm.Type(ctx, line, in)
	for l := range strings.Lines(out) {
		m.note("%s", strings.TrimRight(l, "\n"))
	}
	if code != 0 {
		return out, fmt.Errorf("`%s` exits %d", line, code)
	}
	return out, nil
}

func (m *machine) all(ctx context.Context, lines ...string) error {
	for _, line := range lines {
		if _, err := m.typed(ctx, line, ""); err != nil {
			return err
		}
	}
	return nil
}

const call = "runuser -u web -- curl -s http://api.mesh:8080/hello"

func (m *machine) boot(ctx context.Context) error {
	m.begin("A VM with systemd and an ordinary web.service; api is in the mesh already")
	other, err := m.t.AddHost(ctx, "vm-13", "api", "v1")
	if err != nil {
		return err
	}
	vm, err := m.t.AddHost(ctx, "vm-12", "web", "v1")
	if err != nil {
		return err
	}
	text := fmt.Sprintf("mesh {\n  trust_domain = \"demo.example\"\n}\n\ndefaults \"*\" {\n  protocol = \"http\"\n}\n"+
		"service \"web\" {\n  instance \"web\" {\n    address = %q\n    port = 8080\n    node = \"vm-12\"\n  }\n}\n"+
		"service \"api\" {\n  instance \"api\" {\n    address = %q\n    port = 8080\n    node = \"vm-13\"\n  }\n}\n%s", vm.IP, other.IP, allowWeb)
	if err := m.t.StartServer(ctx, text); err != nil {
		return err
	}
	if err := other.BringIn(ctx); err != nil {
		return err
	}
	if m.vm, err = systemd.New(vm.Host, "systemd", systemd.Programs{Kerege: m.t.Kerege, App: m.t.App, Envoy: m.t.EnvoyPath}); err != nil {
		return err
	}
	for path, text := range map[string]string{
		"/etc/resolv.conf":                "nameserver 10.77.0.1\n",
		"/etc/systemd/system/web.service": "[Service]\nExecStart=/usr/local/bin/app serve -name web -listen :8080\nUser=web\n[Install]\nWantedBy=multi-user.target\n",
	} {
		if err := m.vm.Write(path, text); err != nil {
			return err
		}
	}
	began := time.Now()
	if err := m.vm.Boot(ctx); err != nil {
		return err
	}
	m.claim("systemd is up after %.1f s", time.Since(began).Seconds())
	return m.all(ctx, "useradd --system web", "systemctl daemon-reload", "systemctl enable -q --now web kerege-agent")
}

func (m *machine) join(ctx context.Context) error {
	m.begin("One line from the server takes the VM in")
	token, code := m.t.Ask(ctx, "token", "create", "-node", "vm-12")
	if code != 0 {
		return fmt.Errorf("kerege token create: %s", token)
	}
	if _, err := m.typed(ctx, "kerege join -", token); err != nil {
		return err
	}
	return m.all(ctx, "systemctl enable -q --now kerege-envoy@web", "ps -o user:20,comm -C envoy")
}

func (m *machine) capture(ctx context.Context) error {
	m.begin("Capture, which undoes itself unless it works")
	if err := m.all(ctx, "kerege capture apply", "kerege capture confirm"); err != nil {
		return err
	}
	return m.calls(ctx)
}

func (m *machine) calls(ctx context.Context) error {
	out, err := m.typed(ctx, call, "")
	if err != nil {
		return err
	}
	if !strings.Contains(out, "spiffe://demo.example/svc/web") {
		return fmt.Errorf("api did not see who called: %s", out)
	}
	m.claim("api saw spiffe://demo.example/svc/web, by certificate")
	return nil
}

func (m *machine) restart(ctx context.Context) error {
	m.begin("Program and agent are restarted under load")
	for _, unit := range []string{"web", "kerege-agent"} {
		cmd := m.vm.Command(ctx, "runuser -u web -- app load -url http://api.mesh:8080/ -rate 100 -for 4s -fresh")
		var out strings.Builder
		cmd.Stdout = &out
		if err := cmd.Start(); err != nil {
			return fmt.Errorf("starting load: %w", err)
		}
		_, err := m.typed(ctx, "systemctl restart "+unit, "")
		err = errors.Join(err, cmd.Wait())
		var r town.Report
		if err == nil {
			err = json.Unmarshal([]byte(out.String()), &r)
		}
		if err != nil {
			return err
		}
		if r.Failed > 0 || r.ByCode["200"] != r.Calls {
			return fmt.Errorf("%s restarted: %+v", unit, r)
		}
		m.claim("%d calls, none failed", r.Calls)
	}
	return nil
}

func (m *machine) reboot(ctx context.Context) error {
	m.begin("The VM reboots, and every server is away")
	const order = "[Unit]\nWants=kerege-agent.service kerege-envoy@web.service\nAfter=kerege-agent.service kerege-envoy@web.service\n"
	m.hcl("web.service.d", order)
	if err := m.vm.Write("/etc/systemd/system/web.service.d/kerege.conf", order); err != nil {
		return err
	}
	m.t.ServerProc.Kill()
	if err := m.vm.PowerOff(ctx); err != nil {
		return err
	}
	began := time.Now()
	if err := m.vm.Boot(ctx); err != nil {
		return err
	}
	m.claim("everything is up after %.1f s, from its own disk", time.Since(began).Seconds())
	if err := m.all(ctx, "systemctl show -P ActiveEnterTimestamp kerege-agent kerege-envoy@web web", "kerege capture status"); err != nil {
		return err
	}
	return m.calls(ctx)
}

func (m *machine) out(ctx context.Context) error {
	m.begin("And out again")
	if err := m.t.RunServer(ctx); err != nil {
		return err
	}
	if err := lab.Until(ctx, 20*time.Second, "the agent to find its server", func() error {
		if out, _ := m.vm.Run(ctx, "systemctl status kerege-agent"); !strings.Contains(out, "connected") {
			return errors.New(out)
		}
		return nil
	}); err != nil {
		return err
	}
	if err := m.all(ctx, "kerege leave", "systemctl disable -q --now kerege-envoy@web kerege-agent", "systemctl is-active web"); err != nil {
		return err
	}
	rules, err := m.vm.Rules(ctx)
	if err != nil || rules != m.t.Hosts["vm-12"].RulesBefore {
		return fmt.Errorf("the tables are not what they were: %w\n%s", err, rules)
	}
	m.claim("the tables are what they were before, and web runs on")
	return nil
}
