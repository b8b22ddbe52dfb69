//go:build e2e

package systemd

import (
	"strings"
	"testing"
)

// What the agent does with the network namespace of a proxy's process, which is of
// another user, within the sandbox and with the capabilities of the shipped unit:
// to look which one it is, as for a claim, takes CAP_SYS_PTRACE, which is in the
// unit; to enter it, also one that is younger than the agent, takes the drop-in.
func TestTheAgentsSandbox(t *testing.T) {
	ctx, w := newTown(t, false)
	r := newRoot(t, w, w.Server)
	must(t, r.Boot(ctx))
	run(t, ctx, r, "useradd --system proxy-user")
	// The shipped unit, with another program in it.
	run(t, ctx, r, "sed -e 's/^Type=.*/Type=exec/' -e '/^ExecStopPost=/d' -e '/^WatchdogSec=/d' -e 's|^ExecStart=.*|ExecStart=/usr/bin/sleep infinity|' "+
		"/usr/lib/systemd/system/kerege-agent.service > /etc/systemd/system/trial.service; systemctl daemon-reload; systemctl start trial")
	// Made after the unit was started: the mount must reach into its own mounts.
	run(t, ctx, r, "ip netns add late; ip -n late link set lo up")
	run(t, ctx, r, "systemd-run --unit=proxy -p User=proxy-user -p NetworkNamespacePath=/run/netns/late sleep infinity")
	proc := "/proc/" + strings.TrimSpace(run(t, ctx, r, "systemctl show -P MainPID proxy")) + "/ns/net"
	// In the unit's sandbox: its mounts, user, capabilities and system calls.
	within := func(drop, try string) (string, int) {
		must(t, r.Write("/etc/systemd/system/trial2.service.d/drop.conf", drop))
		run(t, ctx, r, "sed -e 's/^Type=.*/Type=oneshot/' -e '/^Restart/d' -e '/^ExecStopPost=/d' -e '/^WatchdogSec=/d' -e \"s#^ExecStart=.*#ExecStart=/bin/sh -c '"+try+"'#\" "+
			"/usr/lib/systemd/system/kerege-agent.service > /etc/systemd/system/trial2.service; systemctl daemon-reload")
		_, code := r.Run(ctx, "systemctl start trial2")
		out, _ := r.Run(ctx, "journalctl -u trial2 --no-pager | tail -5")
		return out, code
	}
	shipped := run(t, ctx, r, "cat /usr/share/doc/kerege/kerege-agent-netns.conf")
	for _, c := range []struct {
		what, drop, try string
		ok              bool
	}{
		{"to see whose namespace a process is in", "", "readlink " + proc, true},
		{"to see it without CAP_SYS_PTRACE", "[Service]\nCapabilityBoundingSet=~CAP_SYS_PTRACE\nAmbientCapabilities=~CAP_SYS_PTRACE\n", "readlink " + proc, false},
		{"to enter a namespace without the drop-in", "", "nsenter --net=/run/netns/late true", false},
		{"to enter it with the drop-in", shipped, "nsenter --net=/run/netns/late iptables -t nat -N KEREGE_TRIAL", true},
		{"to enter it by its process", shipped, "nsenter --net=" + proc + " iptables -t nat -S KEREGE_TRIAL", true},
		{"to make another kind with the drop-in", shipped, "unshare --mount true", false},
	} {
		if out, code := within(c.drop, c.try); (code == 0) != c.ok {
			t.Errorf("%s: exit %d:\n%s", c.what, code, out)
		}
	}
	// The sandbox of a unit that runs has what was mounted since.
	if out, code := r.Run(ctx, "nsenter -t $(systemctl show -P MainPID trial) -m stat -f -c %T /run/netns/late"); code != 0 || strings.TrimSpace(out) != "nsfs" {
		t.Errorf("a namespace that is younger than the agent, in the agent's mounts: exit %d: %s", code, out)
	}
}
