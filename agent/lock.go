package agent

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const lockPatience = time.Second

// lockDir keeps a second agent away from data_dir until the file is closed: two
// would write each other's identities and rules over. It locks the folder itself,
// so that a full or read-only disk is no reason to stay down.
func lockDir(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("locking data_dir: %w", err)
	}
	// A killed agent's lock may outlive it for a moment, in a child that it was
	// just starting.
	for end := time.Now().Add(lockPatience); ; time.Sleep(10 * time.Millisecond) {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) || time.Now().After(end) {
			break
		}
	}
	defer f.Close()
	if !errors.Is(err, unix.EWOULDBLOCK) {
		return nil, fmt.Errorf("locking data_dir %s: %w", dir, err)
	}
	who := "another agent"
	if pid := lockedBy(f); pid > 0 {
		who += fmt.Sprintf(" (process %d)", pid)
	}
	return nil, fmt.Errorf("data_dir %s is in use by %s: one node has one agent. End that one, or give this one a data_dir and a run_dir of its own", dir, who)
}

// lockedBy is the process that holds a file's lock, by the kernel's list; 0 where
// that does not say.
func lockedBy(f *os.File) int {
	var st unix.Stat_t
	if unix.Fstat(int(f.Fd()), &st) != nil {
		return 0
	}
	text, err := os.ReadFile("/proc/locks")
	if err != nil {
		return 0
	}
	at := fmt.Sprintf("%02x:%02x:%d", unix.Major(st.Dev), unix.Minor(st.Dev), st.Ino)
	for line := range strings.Lines(string(text)) {
		// "1: FLOCK  ADVISORY  WRITE 4711 08:01:1234 0 EOF"
		if w := strings.Fields(line); len(w) > 5 && w[1] == "FLOCK" && w[5] == at {
			pid, _ := strconv.Atoi(w[4]) // 0 is said above
			return pid
		}
	}
	return 0
}
