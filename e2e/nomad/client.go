package nomad

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/kerege/kerege/e2e/lab"
	"github.com/kerege/kerege/e2e/parts"
)

// secondAddress is that of the second host. An allocation's own is in a network of
// its host.
const secondAddress = "192.0.2.2"

// Client is a second client of the Nomad, on a host of its own: network, /run and
// state are not the first's, programs and settings are. Its name is n2 in Nomad
// and in Consul.
type Client struct {
	Dir string

	a    *Agent
	hold *exec.Cmd // whose namespaces are the host
	runs []*exec.Cmd
}

// second is the host that Client runs on, from first to last.
const second = `mount -t tmpfs -o mode=755 tmpfs /run
for d in /var/lib/kerege /var/lib/cni; do mkdir -p $d && mount -t tmpfs -o mode=755 tmpfs $d; done
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
ip link set lo up
touch "$1"
exec sleep 900`

// ip is where the first host's agents are.
func (a *Agent) ip() string {
	if a.opt.Hosts > 1 {
		return HostAddress
	}
	return "127.0.0.1"
}

// wired makes the second host, on the first one's bridge.
func (a *Agent) wired() (*Client, error) {
	c := &Client{Dir: filepath.Join(a.Dir, "n2"), a: a}
	if err := os.MkdirAll(filepath.Join(c.Dir, "data"), 0o711); err != nil {
		return nil, fmt.Errorf("making a second host: %w", err)
	}
	up := filepath.Join(c.Dir, "up")
	c.hold = exec.Command("unshare", "--net", "--mount", "sh", "-ec", second, "n2", up)
	c.hold.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := c.hold.Start(); err != nil {
		return nil, fmt.Errorf("making a second host: %w", err)
	}
	a.client = c
	if err := lab.Until(context.Background(), 10*time.Second, "the second host", func() error { _, err := os.Stat(up); return err }); err != nil {
		return nil, err
	}
	script := strings.NewReplacer("PID", fmt.Sprint(c.hold.Process.Pid), "FIRST", HostAddress, "SECOND", secondAddress, "BRIDGE", hostLink).Replace(`
ip link add krn2 type veth peer name eth0 netns PID
ip link set krn2 master BRIDGE up
nsenter --net -t PID sh -ec "ip addr add SECOND/24 dev eth0 && ip link set eth0 up && ip route add 172.26.64.0/20 via FIRST"
ip route add 172.26.80.0/20 via SECOND`)
	if out, err := exec.Command("sh", "-ec", script).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("wiring a second host: %w: %s", err, out)
	}
	return c, nil
}

const clientConfig = `
data_dir             = "%s/data"
name                 = "n2"
bind_addr            = "0.0.0.0"
disable_update_check = true
log_level            = "WARN"
addresses { http = "127.0.0.1" }
advertise {
  http = "127.0.0.1"
  rpc  = "192.0.2.2"
}
client {
  enabled               = true
  servers               = ["192.0.2.1:4647"]
  network_interface     = "eth0"
  cni_path              = "%s"
  bridge_network_subnet = "172.26.80.0/20"
  options = { "fingerprint.denylist" = "env_aws,env_gce,env_azure,env_digitalocean,vault" }
}
plugin "raw_exec" {
  config { enabled = true }
}
`

// Second starts the second client and waits until it takes jobs. Options.Hosts
// is 2.
func (a *Agent) Second() (*Client, error) {
	c, err := a.wired()
	if err != nil {
		return nil, err
	}
	file := filepath.Join(c.Dir, "agent.hcl")
	if err := os.WriteFile(file, fmt.Appendf(nil, clientConfig, c.Dir, cniPath), 0o600); err != nil {
		return nil, fmt.Errorf("starting a second client: %w", err)
	}
	if a.opt.Consul {
		if err := c.run("consul", "agent", "-node=n2", "-data-dir="+c.Dir+"/consul", "-bind="+secondAddress, "-client=127.0.0.1", "-retry-join="+HostAddress, "-log-level=warn"); err != nil {
			return nil, err
		}
		// Nomad looks for it when it starts, and then not for a while.
		err := lab.Until(context.Background(), 20*time.Second, "the second consul", func() error {
			out, err := c.Command(context.Background(), "curl", "-sSf", "-m", "2", "http://127.0.0.1:8500/v1/status/leader").CombinedOutput()
			if err != nil || len(out) < 5 {
				return fmt.Errorf("no leader: %s", out)
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	if err := c.run("nomad", "agent", "-config", file); err != nil {
		return nil, err
	}
	err = lab.Until(context.Background(), time.Minute, "the second client", func() error {
		nodes, _, err := a.Nodes().List(nil)
		if err != nil {
			return err
		}
		for _, n := range nodes {
			full, _, err := a.Nodes().Info(n.ID, nil)
			if err == nil && n.Name == "n2" && n.Status == "ready" && (!a.opt.Consul || full.Attributes["consul.version"] != "") {
				return nil
			}
		}
		return errors.New("it is not ready")
	})
	if err != nil {
		log, _ := os.ReadFile(filepath.Join(c.Dir, "nomad.log"))
		return nil, fmt.Errorf("%w\n%s", err, log[max(0, len(log)-4000):])
	}
	return c, nil
}

// Command is a program that will run on the host.
func (c *Client) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "nsenter", append([]string{"--net", "--mount", "-t", fmt.Sprint(c.hold.Process.Pid), name}, args...)...)
}

// Path is where the first host finds a file of this one.
func (c *Client) Path(file string) string {
	return fmt.Sprintf("/proc/%d/root%s", c.hold.Process.Pid, file)
}

func (c *Client) run(part string, args ...string) error {
	path, err := parts.Find(part)
	if err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(c.Dir, part+".log"))
	if err != nil {
		return fmt.Errorf("starting %s: %w", part, err)
	}
	defer log.Close()
	cmd := c.Command(context.Background(), path, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting %s: %w", part, err)
	}
	c.runs = append(c.runs, cmd)
	return nil
}

// end ends what runs on the host, and the host.
func (c *Client) end() {
	for _, cmd := range append(c.runs, c.hold) {
		cmd.Process.Kill()
		cmd.Wait()
	}
}
