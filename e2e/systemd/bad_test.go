//go:build e2e

package systemd

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kerege/kerege/e2e/lab"
)

// What is wrong with a host is said in one sentence with what mends it, nothing
// is half applied, and the drop-in for network namespaces is enough for them.
func TestWhatIsWrongWithAHost(t *testing.T) {
	ctx, w := newTown(t, false)
	vm, err := w.AddHost(ctx, "vm-30", "", "")
	must(t, err)
	mesh := "mesh {\n  trust_domain = \"prod.example\"\n}\n"
	for port, name := range []string{"job", "rooted", "twin", "good"} {
		mesh += fmt.Sprintf("service %q {\n  protocol = \"tcp\"\n  instance %[1]q {\n    address = %q\n    port    = %d\n    node    = \"vm-30\"\n  }\n}\n", name, vm.IP, 8081+port)
	}
	must(t, w.StartServer(ctx, mesh))
	r := newRoot(t, w, vm.Host)
	must(t, r.Write("/etc/resolv.conf", "nameserver 10.77.0.1\n"))
	must(t, r.Write("/etc/kerege.d/agent.hcl", "workload \"job\" {\n  netns = \"job\"\n}\n"))
	must(t, r.Boot(ctx))
	unit := func(name, user string, port int) {
		must(t, r.Write("/etc/systemd/system/"+name+".service", fmt.Sprintf("[Service]\nExecStart=/usr/local/bin/app serve -listen :%d\nUser=%s\n", port, user)))
	}
	unit("rooted", "root", 8082)
	unit("twin", "good", 8083)
	unit("good", "good", 8084)
	dropIn := func(text string) {
		must(t, r.Write("/etc/systemd/system/kerege-agent.service.d/test.conf", text))
		run(t, ctx, r, "systemctl daemon-reload; systemctl restart kerege-agent")
	}
	run(t, ctx, r, "useradd --system good; ip netns add job; ip -n job link set lo up; systemctl daemon-reload; systemctl start rooted twin good")
	token, _ := w.Ask(ctx, "token", "create", "-node", "vm-30")
	run(t, ctx, r, "systemctl start kerege-agent")
	if out, code := r.Type(ctx, "kerege join -", token); code != 0 {
		t.Fatalf("join: exit %d: %s", code, out)
	}
	before := tables(t, ctx, r)
	says := func(what, line string, exit int, parts ...string) {
		t.Helper()
		var out string
		err := lab.Until(ctx, 10*time.Second, what, func() error {
			var code int
			out, code = r.Run(ctx, line)
			for _, p := range parts {
				if code != exit || !strings.Contains(out, p) {
					return fmt.Errorf("`%s` exits %d, not %d, or does not say %q: %s", line, code, exit, p, out)
				}
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
		if after := tables(t, ctx, r); after != before {
			t.Errorf("%s: half applied:\n%s", what, after)
		}
	}
	says("two services of one user", "kerege capture apply", 1, "cannot be told apart", "give each a user or a slice of its own")
	run(t, ctx, r, "systemctl stop twin; useradd --system twin; sed -i s/=good/=twin/ /etc/systemd/system/twin.service; systemctl daemon-reload; systemctl start twin")
	run(t, ctx, r, "systemctl restart kerege-agent")
	says("a program of root", "kerege capture plan", 2, "rooted", "give its unit a User= or a Slice= of its own")
	says("a namespace without the right to enter it", "kerege capture plan", 2, "job", "CAP_SYS_ADMIN", "kerege-agent-netns.conf")
	dropIn("[Service]\nCapabilityBoundingSet=~CAP_NET_ADMIN\nAmbientCapabilities=~CAP_NET_ADMIN\n")
	says("no CAP_NET_ADMIN", "kerege capture apply", 1, "the agent needs CAP_NET_ADMIN")
	run(t, ctx, r, "systemctl stop rooted; install -D /usr/share/doc/kerege/kerege-agent-netns.conf /etc/systemd/system/kerege-agent.service.d/netns.conf")
	dropIn("")
	must(t, lab.Until(ctx, 20*time.Second, "rules in the namespace", func() error {
		out, _ := r.Run(ctx, "kerege capture apply -manual -undo 50s")
		rules, _ := r.Run(ctx, "ip netns exec job iptables-save")
		if !strings.Contains(rules, "KEREGE") {
			return errText(out + rules)
		}
		return nil
	}))
	run(t, ctx, r, "kerege capture remove")
	if rules := run(t, ctx, r, "ip netns exec job iptables-save; ip netns exec job ip6tables-save"); lab.NormaliseRules(rules) != "" {
		t.Errorf("left in the namespace: %s", rules)
	}
	if after := tables(t, ctx, r); after != before {
		t.Errorf("left on the host: %s", after)
	}
	// Where iptables is the legacy one, its lock is root's: tmpfiles.d gives the agent a share.
	run(t, ctx, r, "ln -sf /usr/sbin/iptables-legacy /etc/alternatives/iptables; ln -sf /usr/sbin/ip6tables-legacy /etc/alternatives/ip6tables; systemctl restart kerege-agent")
	must(t, lab.Until(ctx, 20*time.Second, "rules in the legacy tables", func() error {
		out, _ := r.Run(ctx, "kerege capture apply -manual -undo 50s")
		if rules, _ := r.Run(ctx, "iptables-legacy-save"); !strings.Contains(rules, "KEREGE") {
			return errText(out + rules)
		}
		return nil
	}))
	run(t, ctx, r, "kerege capture remove")
	if rules := lab.NormaliseRules(run(t, ctx, r, "iptables-legacy-save; ip6tables-legacy-save")); rules != "" {
		t.Errorf("left in the legacy tables: %s", rules)
	}
	if out, _ := r.Run(ctx, "systemd-analyze security --no-pager kerege-agent.service | tail -1"); !strings.Contains(out, "OK") {
		t.Errorf("with the drop-in: %s", out)
	}
}
