package command

import (
	"bytes"
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/kerege/kerege/config"
	"github.com/kerege/kerege/telemetry"
)

func TestAReloadTakesTheLevelAndNamesTheRest(t *testing.T) {
	file := filepath.Join(t.TempDir(), "agent.hcl")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("node = \"n1\"\n")
	started, _ := config.LoadAgent(file)
	var said, diags bytes.Buffer
	c := &Call{terminal: terminal{err: &diags}}
	log := telemetry.Logger("kerege", telemetry.LogOptions{Level: "info", Output: &said})
	for _, step := range []struct {
		text  string
		debug bool
		want  string
	}{
		{"node = \"n1\"\nlog_level = \"debug\"\n", true, "log_level=debug"},
		{"node = \"n1\"\nlog_level = \"debug\"\nenvoy { path = \"/e\" }\nretry_join = [\"a:1\"]\n", true, `settings="envoy retry_join"`},
		{"node = \"n1\"\nlog_level = \"loud\"\n", true, "stay as they were"},
		{"node = \"n1\"\n", false, "log_level=info"},
	} {
		write(step.text)
		said.Reset()
		reloadAgent(c, log, started, []string{file})
		if !strings.Contains(said.String(), step.want) || log.IsDebug() != step.debug || strings.Contains(said.String(), "restart") != strings.Contains(step.want, "settings=") {
			t.Errorf("%s: debug %v, said %s", step.text, log.IsDebug(), said.String())
		}
	}
}

// TestTheWatchdogIsFedOnlyAfterACheck, and systemd hears when a reload begins and ends.
func TestTheWatchdogIsFedOnlyAfterACheck(t *testing.T) {
	path := filepath.Join(t.TempDir(), "n")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	t.Setenv("WATCHDOG_USEC", "40000")
	hear := func(limit time.Duration) string {
		b := make([]byte, 512)
		if err := l.SetReadDeadline(time.Now().Add(limit)); err != nil {
			t.Fatal(err)
		}
		n, _ := l.Read(b)
		return string(b[:n])
	}
	stuck := make(chan struct{})
	check := func(context.Context) error {
		select {
		case <-stuck:
			return context.DeadlineExceeded
		default:
			return nil
		}
	}
	stop := feedWatchdog(t.Context(), hclog.NewNullLogger(), telemetry.NewNotifier(), check)
	defer stop()
	if got := hear(5 * time.Second); got != "WATCHDOG=1" {
		t.Errorf("heard %q", got)
	}
	close(stuck)
	for range 100 {
		if hear(200*time.Millisecond) == "" {
			break
		}
	}
	if got := hear(200 * time.Millisecond); got != "" {
		t.Errorf("fed though the check fails: %q", got)
	}
	notify := telemetry.NewNotifier()
	stopHangups := onHangup(func() {
		tell(hclog.NewNullLogger(), notify.Reloading())
		tell(hclog.NewNullLogger(), notify.Reloaded())
	})
	defer stopHangups()
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if got := hear(5 * time.Second); !strings.HasPrefix(got, "RELOADING=1\nMONOTONIC_USEC=") || strings.HasSuffix(got, "=0") {
		t.Errorf("heard %q", got)
	}
	if got := hear(5 * time.Second); got != "READY=1" {
		t.Errorf("heard %q", got)
	}
}
