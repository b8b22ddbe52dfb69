// Package nomad starts a real Nomad, a server and a client, for tests: on
// loopback, in a lab (lab.Enter), with raw_exec.
//
// They are two processes, because a client that registers before its server has
// a keyring tries again only after 15 to 30 s.
//
// Promises: their state outlives Kill, so that they can be started again; they end,
// with their jobs, when Close is called, and with the lab in any case.
package nomad

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hashicorp/nomad/api"

	"github.com/kerege/kerege/e2e/lab"
	"github.com/kerege/kerege/e2e/parts"
)

// Options of an Agent.
type Options struct {
	ACL    bool   // the management token is Agent.Token
	More   string // HCL added to the agent's configuration
	Consul bool   // a Consul beside it, on 127.0.0.1:8500, for both of which the node is n1
	CNI    bool   // jobs may have networks of mode "bridge"; other users may pass to their own files
	Hosts  int    // 2, with CNI: Second may be called
}

// Agent is one Nomad on 127.0.0.1:4646.
type Agent struct {
	*api.Client
	Addr  string
	Token string // management; "" without ACL
	Dir   string

	opt  Options
	runs []*process // the server, then the client

	consul *exec.Cmd
	client *Client // nil: one host

	orphans bool // tasks that outlived a Kill: nobody in a lab reaps them, and Nomad waits for that
}

const serverConfig = `
data_dir             = "%[1]s/server"
bind_addr            = "%[2]s"
name                 = "n1"
disable_update_check = true
log_level            = "WARN"
addresses { http = "127.0.0.1" }
advertise {
  http = "127.0.0.1"
  rpc  = "%[2]s"
  serf = "%[2]s"
}
server {
  enabled          = true
  bootstrap_expect = 1
  raft_multiplier  = 1
}
acl { enabled = %[3]v }
%[4]s
`

const firstConfig = `
data_dir             = "%[1]s/data"
bind_addr            = "127.0.0.1"
name                 = "n1"
disable_update_check = true
log_level            = "WARN"
advertise {
  http = "127.0.0.1"
  rpc  = "127.0.0.1"
}
ports {
  http = 4656
  rpc  = 4657
}
client {
  enabled           = true
  servers           = ["%[2]s:4647"]
  network_interface = "%[3]s"
  cni_path          = "%[4]s"
  meta { rack = "r1" }
  options = { "fingerprint.denylist" = "env_aws,env_gce,env_azure,env_digitalocean,%[5]svault" }
}
plugin "raw_exec" {
  config { enabled = true }
}
acl { enabled = %[6]v }
%[7]s
`

// HostAddress is the client's, where jobs have networks of mode "bridge".
const HostAddress = "192.0.2.1"

const hostLink = "krn0"

// cniPath is where Debian keeps the plugins that bridge networks need.
const cniPath = "/usr/lib/cni"

// Start starts a Nomad and waits until its node takes jobs.
func Start(opt Options) (*Agent, error) {
	if !lab.Inside() {
		return nil, errors.New("starting nomad: it runs in a lab only (lab.Enter)")
	}
	dir, err := os.MkdirTemp("", "krnmd-")
	if err != nil {
		return nil, fmt.Errorf("starting nomad: %w", err)
	}
	link := "lo"
	if opt.CNI {
		link = hostLink
		if err := hasAddress(); err != nil {
			return nil, err
		}
		if err := errors.Join(os.Chmod(dir, 0o711), os.Mkdir(filepath.Join(dir, "data"), 0o711)); err != nil {
			return nil, fmt.Errorf("starting nomad: %w", err)
		}
	}
	without := "consul,"
	if opt.Consul {
		without = ""
	}
	a := &Agent{Addr: "http://127.0.0.1:4646", Dir: dir, opt: opt}
	for name, text := range map[string][]byte{
		"server": fmt.Appendf(nil, serverConfig, dir, a.ip(), opt.ACL, opt.More),
		"client": fmt.Appendf(nil, firstConfig, dir, a.ip(), link, cniPath, without, opt.ACL, opt.More),
	} {
		if err := os.WriteFile(filepath.Join(dir, name+".hcl"), text, 0o600); err != nil {
			return nil, errors.Join(fmt.Errorf("starting nomad: %w", err), a.Close())
		}
	}
	if a.Client, err = api.NewClient(&api.Config{Address: a.Addr}); err != nil {
		return nil, errors.Join(fmt.Errorf("starting nomad: %w", err), a.Close())
	}
	if opt.Consul {
		if err := a.bootConsul(); err != nil {
			return nil, errors.Join(err, a.Close())
		}
	}
	if err := a.Boot(); err != nil {
		return nil, errors.Join(err, a.Close())
	}
	return a, nil
}

// hasAddress gives the lab an address as a host has one, at which Nomad maps ports.
func hasAddress() error {
	if _, err := net.InterfaceByName(hostLink); err == nil {
		return nil
	}
	for _, args := range [][]string{{"link", "add", hostLink, "type", "bridge"}, {"addr", "add", HostAddress + "/24", "dev", hostLink}, {"link", "set", hostLink, "up"}} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("giving the host an address: %w: %s", err, out)
		}
	}
	return nil
}

// bootConsul starts a Consul and waits until it has a leader.
func (a *Agent) bootConsul() error {
	path, err := parts.Find("consul")
	if err != nil {
		return err
	}
	log, err := os.OpenFile(filepath.Join(a.Dir, "consul.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("starting consul: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(path, "agent", "-dev", "-node=n1", "-bind="+a.ip(), "-client=127.0.0.1", "-log-level=warn")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a terminal's Ctrl-C is not its end: Close is
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("starting consul: %w", err)
	}
	a.consul = cmd
	return lab.Until(context.Background(), 30*time.Second, "consul's leader", func() error {
		resp, err := http.Get("http://127.0.0.1:8500/v1/status/leader")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if leader, err := io.ReadAll(resp.Body); err != nil || len(leader) < 5 {
			return fmt.Errorf("no leader: %s %w", leader, err)
		}
		return nil
	})
}

// Kill ends the server and the client at once; their jobs go on.
func (a *Agent) Kill() {
	a.orphans = true
	for _, p := range a.runs {
		p.Process.Kill()
		<-p.done
	}
	a.runs = nil
}

// Signal sends to the server and to the client, such as SIGSTOP.
func (a *Agent) Signal(s syscall.Signal) error {
	var errs []error
	for _, p := range a.runs {
		errs = append(errs, p.Process.Signal(s))
	}
	return errors.Join(errs...)
}

// Log is the end of what they wrote.
func (a *Agent) Log() string {
	text, err := os.ReadFile(filepath.Join(a.Dir, "log"))
	if err != nil {
		return err.Error()
	}
	return string(text[max(0, len(text)-4000):])
}

// Run submits a job as text and waits for none of it.
func (a *Agent) Run(hcl string) error {
	job, err := a.Jobs().ParseHCL(hcl, true)
	if err != nil {
		return fmt.Errorf("parsing a job: %w", err)
	}
	if _, _, err := a.Jobs().Register(job, nil); err != nil {
		return fmt.Errorf("running a job: %w", err)
	}
	return nil
}

// Stop stops a job of a namespace. Nomad goes on listing it, and its allocations.
func (a *Agent) Stop(namespace, job string) error {
	if _, _, err := a.Jobs().Deregister(job, false, &api.WriteOptions{Namespace: namespace}); err != nil {
		return fmt.Errorf("stopping job %s: %w", job, err)
	}
	return nil
}

// Close stops every job and the agents, and removes its files.
func (a *Agent) Close() error {
	var errs []error
	var allocs []*api.AllocationListStub
	if len(a.runs) > 0 {
		errs = append(errs, a.stopAll())
		allocs, _, _ = a.Allocations().List(&api.QueryOptions{Namespace: "*"})
		a.Kill()
	}
	// Cgroups are the machine's, not the lab's. A task's last process may be on
	// its way out, or have outlived a Kill and not have heard that its job stops.
	errs = append(errs, lab.Until(context.Background(), 5*time.Second, "the end of the tasks' cgroups", func() error {
		for _, alloc := range allocs {
			left, _ := filepath.Glob("/sys/fs/cgroup/*/nomad/" + alloc.ID + ".*")
			for _, dir := range left {
				if err := syscall.Rmdir(dir); err != nil {
					endAll(dir)
					return fmt.Errorf("removing %s: %w", dir, err)
				}
			}
		}
		return nil
	}))
	if a.client != nil {
		a.client.end()
	}
	a.unmount()
	if a.consul != nil {
		a.consul.Process.Kill()
		a.consul.Wait()
	}
	return errors.Join(append(errs, os.RemoveAll(a.Dir))...)
}

// endAll kills what is in a cgroup.
func endAll(dir string) {
	list, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	for text := range strings.FieldsSeq(string(list)) {
		if pid, err := strconv.Atoi(text); err == nil && pid > 1 {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

func (a *Agent) stopAll() error {
	jobs, _, err := a.Jobs().List(&api.QueryOptions{Namespace: "*"})
	if err != nil {
		return fmt.Errorf("listing jobs: %w", err)
	}
	for _, j := range jobs {
		if err := a.Stop(j.Namespace, j.ID); err != nil {
			return err
		}
	}
	if a.orphans {
		return nil
	}
	return lab.Until(context.Background(), 20*time.Second, "the end of all allocations", func() error {
		list, _, err := a.Allocations().List(&api.QueryOptions{Namespace: "*"})
		if err != nil {
			return err
		}
		for _, alloc := range list {
			if alloc.ClientStatus == "running" {
				return fmt.Errorf("%s of %s runs", alloc.ID, alloc.JobID)
			}
		}
		return nil
	})
}

// unmount releases the secrets' directories that Nomad mounts below its data.
func (a *Agent) unmount() {
	mounts, _ := os.ReadFile("/proc/self/mounts")
	for line := range bytes.Lines(mounts) {
		if f := strings.Fields(string(line)); len(f) > 1 && strings.HasPrefix(f[1], a.Dir+"/") {
			syscall.Unmount(f[1], syscall.MNT_DETACH)
		}
	}
}
