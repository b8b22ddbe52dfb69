package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"os/user"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// inside marks the process that Enter has put into namespaces of its own.
const inside = "KEREGE_LAB_INSIDE"

// Inside tells whether this process already runs where Enter puts it.
func Inside() bool { return os.Getenv(inside) != "" }

// Enter runs this very program again with private network, mount and process
// namespaces and an empty /run, and returns its exit code. Whatever happens to
// that process, the kernel takes away its namespaces, mounts and children. An
// ordinary user gets a user namespace too, in which it is root.
func Enter() (code int, err error) {
	args := []string{"--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"}
	if os.Geteuid() != 0 {
		if err := mayMapUsers(); err != nil {
			return 1, err
		}
		args = append(args, "--user", "--map-root-user", "--map-auto")
	}
	self, err := os.Executable()
	if err != nil {
		return 1, fmt.Errorf("entering the lab: %w", err)
	}
	const script = `mount -t tmpfs -o mode=755 tmpfs /run && ip link set lo up && exec "$@"`
	args = append(args, "--", "sh", "-c", script, "lab", self)
	cmd := exec.Command("unshare", append(args, os.Args[1:]...)...)
	tell, told, err := os.Pipe()
	if err != nil {
		return 1, fmt.Errorf("entering the lab: %w", err)
	}
	defer told.Close()
	cmd.ExtraFiles = []*os.File{tell} // descriptor 3 inside
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := startLocked(cmd); err != nil {
		return 1, fmt.Errorf("entering the lab: %w", err)
	}
	tell.Close()
	go tellPid(told, cmd.Process.Pid)
	// Ctrl-C reaches the whole foreground group; the inner process tidies up and
	// ends, and so do we. SIGTERM comes to us alone and is passed on.
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(signals)
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	for {
		select {
		case s := <-signals:
			if s == syscall.SIGTERM {
				forward(cmd.Process.Pid, syscall.SIGTERM)
			}
		case err := <-done:
			var e *exec.ExitError
			if errors.As(err, &e) {
				return e.ExitCode(), nil
			}
			if err != nil {
				return 1, fmt.Errorf("entering the lab: %w", err)
			}
			return 0, nil
		}
	}
}

// forward signals unshare's child, the program itself: unshare does not pass signals on.
func forward(unshare int, s syscall.Signal) {
	if pid := child(unshare); pid != 0 {
		syscall.Kill(pid, s)
		return
	}
	syscall.Kill(unshare, s)
}

// child is the process id of unshare's one child; 0 when there is none (yet).
func child(unshare int) (pid int) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", unshare, unshare))
	if err != nil {
		return 0
	}
	if _, err := fmt.Sscan(string(text), &pid); err != nil {
		return 0
	}
	return pid
}

// tellPid tells the program inside which process it is on the outside.
func tellPid(to *os.File, unshare int) {
	for range 500 {
		if pid := child(unshare); pid != 0 {
			fmt.Fprintln(to, pid)
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// Nsenter is the command line by which another terminal gets in here.
func Nsenter() (string, error) {
	var pid int
	if _, err := fmt.Fscan(os.NewFile(3, "outside"), &pid); err != nil {
		return "", fmt.Errorf("asking for the lab's process id outside: %w", err)
	}
	uidMap, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return "", fmt.Errorf("asking for the lab's users: %w", err)
	}
	user := ""
	if f := strings.Fields(string(uidMap)); len(f) > 2 && (f[1] != "0" || len(f) > 3) {
		user = "--user --preserve-credentials "
	}
	return fmt.Sprintf("nsenter -t %d %s-m -n -p --", pid, user), nil
}

// mayMapUsers says in one sentence what an ordinary user lacks.
func mayMapUsers() error {
	if _, err := exec.LookPath("newuidmap"); err != nil {
		return errors.New("not root, and newuidmap is missing, which gives an ordinary user a lab of its own: apt-get install uidmap, or run as root")
	}
	subuid, err := os.ReadFile("/etc/subuid") // that there is none is said as no line in it
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	if err != nil {
		return fmt.Errorf("asking whether an ordinary user may have a lab: %w", err)
	}
	uid, name := strconv.Itoa(os.Getuid()), ""
	if u, err := user.LookupId(uid); err == nil {
		name = u.Username
	}
	return hasRange(string(subuid), uid, name)
}

// hasRange is nil when /etc/subuid has a line for a user, who may have no name.
func hasRange(subuid, uid, name string) error {
	for line := range strings.Lines(subuid) {
		if who, _, _ := strings.Cut(line, ":"); who == uid || who == name && name != "" {
			return nil
		}
	}
	if name == "" {
		return fmt.Errorf("not root, and /etc/subuid has no line for the user %[1]s: as root, echo %[1]s:100000:65536 | tee -a /etc/subuid /etc/subgid", uid)
	}
	return fmt.Errorf("not root, and /etc/subuid has no line for %[1]s: as root, usermod --add-subuids 100000-165535 --add-subgids 100000-165535 %[1]s", name)
}
