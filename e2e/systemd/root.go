// Package systemd boots a real systemd in a root of its own: a host of a lab
// with the shipped units on it, which can be powered off and booted again.
//
// Promises: what is written on it stays on a file system in memory, over this
// machine's own, which is only read; Close removes processes, cgroup and mounts.
package systemd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/kerege/kerege/e2e/lab"
)

// Shipped is where each file of the folder systemd is installed.
var Shipped = map[string]string{
	"kerege-server.service":      "usr/lib/systemd/system/kerege-server.service",
	"kerege-agent.service":       "usr/lib/systemd/system/kerege-agent.service",
	"kerege-envoy@.service":      "usr/lib/systemd/system/kerege-envoy@.service",
	"kerege-envoy-user@.service": "usr/lib/systemd/system/kerege-envoy-user@.service",
	"kerege.slice":               "usr/lib/systemd/system/kerege.slice",
	"kerege.sysusers":            "usr/lib/sysusers.d/kerege.conf",
	"kerege.tmpfiles":            "usr/lib/tmpfiles.d/kerege.conf",
	"kerege.modules-load":        "usr/lib/modules-load.d/kerege.conf",
	"kerege-agent-netns.conf":    "usr/share/doc/kerege/kerege-agent-netns.conf",
	"kerege-server-consul.conf":  "usr/share/doc/kerege/kerege-server-consul.conf",
}

// Programs are the binaries of a root, by their paths on this machine.
type Programs struct{ Kerege, App, Envoy string }

// Root is one machine with systemd.
type Root struct {
	*lab.Host
	Dir    string // its file system, as it sees it
	base   string // the tmpfs with what it wrote
	cgroup string
	envoy  string
	boot   *exec.Cmd
	log    *bytes.Buffer
	pid    int // of its systemd; 0 while it is off
}

// New makes a root that is switched off, with the files of the folder units
// installed as a package would.
func New(h *lab.Host, units string, p Programs) (*Root, error) {
	r := &Root{Host: h, base: filepath.Join(h.Dir, "root"), envoy: p.Envoy}
	r.Dir = filepath.Join(r.base, "new")
	if err := os.MkdirAll(r.base, 0o755); err != nil {
		return nil, fmt.Errorf("making a root: %w", err)
	}
	script := `mount -t tmpfs -o mode=755 tmpfs "$0" && cd "$0" && mkdir up work new &&
mount -t overlay -o lowerdir=/,upperdir=up,workdir=work overlay new && cd new &&
rm -rf etc/systemd/system/* etc/init.d/* etc/rc?.d/* etc/fstab etc/cron* usr/lib/systemd/system/getty.target.wants &&
: > etc/machine-id && : > etc/fstab && echo "$1" > etc/hostname && rm -f etc/resolv.conf && : > etc/resolv.conf && : > usr/bin/envoy && chmod 755 usr/bin/envoy &&
for unit in ` + strings.ReplaceAll(hushed, "\n", " ") + `; do ln -s /dev/null etc/systemd/system/$unit || exit; done &&
install -D "$2" usr/bin/kerege && install -D "$3" usr/local/bin/app`
	if out, err := exec.Command("sh", "-c", script, r.base, h.Name, p.Kerege, p.App).CombinedOutput(); err != nil {
		return nil, errors.Join(fmt.Errorf("making a root: %w: %s", err, out), r.Close())
	}
	for from, to := range Shipped {
		text, err := os.ReadFile(filepath.Join(units, from))
		if err == nil {
			err = r.Write("/"+to, string(text))
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("installing the units: %w", err), r.Close())
		}
	}
	if out, err := exec.Command("systemd-sysusers", "--root="+r.Dir).CombinedOutput(); err != nil {
		return nil, errors.Join(fmt.Errorf("making the users: %w: %s", err, out), r.Close())
	}
	return r, nil
}

// What has no business in such a root.
const hushed = `systemd-udevd.service systemd-udevd-kernel.socket systemd-udevd-control.socket systemd-udev-trigger.service systemd-timesyncd.service
getty.target console-getty.service systemd-modules-load.service systemd-sysctl.service systemd-logind.service dbus.service dbus.socket
systemd-binfmt.service proc-sys-fs-binfmt_misc.automount sys-kernel-config.mount sys-kernel-debug.mount sys-kernel-tracing.mount
sys-fs-fuse-connections.mount dev-hugepages.mount dev-mqueue.mount systemd-random-seed.service systemd-remount-fs.service
systemd-user-sessions.service systemd-firstboot.service systemd-update-utmp.service systemd-update-utmp-runlevel.service kmod-static-nodes.service
systemd-tmpfiles-setup-dev.service systemd-journald-audit.socket apt-daily.timer apt-daily-upgrade.timer fstrim.timer`

// Write puts a file there, whether it runs or not.
func (r *Root) Write(path, text string) error {
	path = filepath.Join(r.Dir, path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("writing on %s: %w", r.Name, err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		return fmt.Errorf("writing on %s: %w", r.Name, err)
	}
	return nil
}

const bootScript = `set -e
echo 0 > "$2/cgroup.procs"
exec nsenter --net="/run/netns/$3" unshare -m -p -f -C -u -i --kill-child sh -ec '
mount --make-rprivate /
cd "$0"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=1777 tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/pts dev/shm
for n in null zero full random urandom tty; do : > dev/$n; mount --bind /dev/$n dev/$n; done
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
ln -s pts/ptmx dev/ptmx; ln -s /proc/self/fd dev/fd; ln -s fd/0 dev/stdin; ln -s fd/1 dev/stdout; ln -s fd/2 dev/stderr
mount -t tmpfs -o mode=1777 tmpfs dev/shm
mount --bind "$1" usr/bin/envoy
hostname "$(cat etc/hostname)"
pivot_root . mnt
cd /
umount -l /mnt
mount --make-rshared / # as systemd does where it is no container
exec env -i container=lab PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin /lib/systemd/systemd --system --unit=multi-user.target --show-status=no
' "$0" "$1"`

// Boot switches it on and waits until systemd has started everything.
func (r *Root) Boot(ctx context.Context) error {
	if err := r.SwitchOn(ctx); err != nil {
		return err
	}
	state, _ := r.Run(ctx, "timeout 60 systemctl is-system-running --wait")
	if strings.TrimSpace(state) != "running" {
		failed, _ := r.Run(ctx, "systemctl --failed --no-legend; systemctl list-jobs; journalctl -b --no-pager | tail -60")
		return fmt.Errorf("booting %s: it is %s, not running:\n%s", r.Name, strings.TrimSpace(state), failed)
	}
	return nil
}

// SwitchOn is Boot that waits only until systemd answers.
func (r *Root) SwitchOn(ctx context.Context) error {
	mount := "/sys/fs/cgroup"
	if _, err := os.Stat(mount + "/unified/cgroup.procs"); err == nil {
		mount += "/unified"
	}
	sweep(filepath.Join(mount, "kr-systemd-"+r.Name+"-*"))
	var err error
	if r.cgroup, err = os.MkdirTemp(mount, "kr-systemd-"+r.Name+"-"); err != nil {
		return fmt.Errorf("booting %s: %w", r.Name, err)
	}
	if err := os.Chmod(r.cgroup, 0o755); err != nil {
		return fmt.Errorf("booting %s: %w", r.Name, err)
	}
	r.log = &bytes.Buffer{}
	r.boot = exec.Command("sh", "-c", bootScript, r.Dir, r.envoy, r.cgroup, r.NS)
	r.boot.Stdout, r.boot.Stderr = r.log, r.log
	if err := r.boot.Start(); err != nil {
		return fmt.Errorf("booting %s: %w", r.Name, err)
	}
	return lab.Until(ctx, 20*time.Second, "systemd to answer", func() error {
		if err := syscall.Kill(r.boot.Process.Pid, 0); err != nil {
			return fmt.Errorf("it ended: %s", r.log)
		}
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%[1]d/children", r.boot.Process.Pid))
		if err != nil {
			return fmt.Errorf("finding its process: %w", err)
		}
		if _, err := fmt.Sscan(string(text), &r.pid); err != nil {
			return fmt.Errorf("no process yet: %s", r.log)
		}
		if out, code := r.Run(ctx, "systemctl show --property=Version --value"); code != 0 {
			return fmt.Errorf("exit %d: %s%s", code, out, r.log)
		}
		return nil
	})
}

// Command is a shell line on it, as root.
func (r *Root) Command(ctx context.Context, line string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "nsenter", "-t", fmt.Sprint(r.pid), "-m", "-p", "-C", "-u", "-i", "-n", "-r", "-w", "--",
		"/usr/bin/env", "-i", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin", "HOME=/root", "TERM=dumb", "SYSTEMD_PAGER=", "/bin/sh", "-c", line)
	cmd.WaitDelay = time.Second
	return cmd
}

// Run types a line on it: what a terminal shows, and the exit code.
func (r *Root) Run(ctx context.Context, line string) (string, int) { return r.Type(ctx, line, "") }

// Type is Run with something on standard input.
func (r *Root) Type(ctx context.Context, line, in string) (string, int) {
	cmd := r.Command(ctx, line)
	cmd.Stdin = strings.NewReader(in)
	out, err := cmd.CombinedOutput()
	if err != nil && cmd.ProcessState == nil {
		return err.Error(), -1
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// PowerOff ends it in order and takes its network away, as a machine loses its
// tables and connections. What it wrote stays.
func (r *Root) PowerOff(ctx context.Context) error {
	if out, code := r.Run(ctx, "systemctl poweroff"); code != 0 {
		return fmt.Errorf("powering %s off: exit %d: %s", r.Name, code, out)
	}
	done := make(chan struct{})
	go func() { _ = r.boot.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(60 * time.Second):
		_ = r.boot.Process.Kill()
		<-done
		return fmt.Errorf("powering %s off: it did not end within 60 s", r.Name)
	}
	r.pid, r.boot = 0, nil
	return errors.Join(r.removeCgroup(), r.Rewire())
}

// Close ends and removes all of it. It is safe at any time.
func (r *Root) Close() error {
	if r.boot != nil {
		if r.pid > 1 { // the first process of its namespace: all others die with it
			_ = syscall.Kill(r.pid, syscall.SIGKILL)
		}
		_ = r.boot.Process.Kill()
		_ = r.boot.Wait()
		r.pid, r.boot = 0, nil
	}
	errs := []error{r.removeCgroup()}
	for _, at := range []string{r.Dir, r.base} {
		if err := syscall.Unmount(at, syscall.MNT_DETACH); err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.ENOENT) {
			errs = append(errs, fmt.Errorf("unmounting %s: %w", at, err))
		}
	}
	return errors.Join(errs...)
}

// removeCgroup waits for processes that are ending, which hold theirs for a moment.
func (r *Root) removeCgroup() error {
	if r.cgroup == "" {
		return nil
	}
	var err error
	for range 100 {
		if err = removeTree(r.cgroup); err == nil {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return err
}

// sweep removes what a run left behind that was killed: cgroups without a process.
func sweep(pattern string) {
	left, _ := filepath.Glob(pattern)
	for _, dir := range left {
		text, err := os.ReadFile(filepath.Join(dir, "cgroup.events"))
		if err == nil && strings.Contains(string(text), "populated 0") {
			_ = removeTree(dir) // one that somebody has just entered stays
		}
	}
}

// removeTree removes a cgroup and those in it, the innermost first.
func removeTree(root string) error {
	var dirs []string
	_ = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			dirs = append(dirs, path)
		}
		return nil
	})
	for i := len(dirs) - 1; i >= 0; i-- {
		if err := syscall.Rmdir(dirs[i]); err != nil && !errors.Is(err, syscall.ENOENT) {
			return fmt.Errorf("removing cgroup %s: %w", dirs[i], err)
		}
	}
	return nil
}
