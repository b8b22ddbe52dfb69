//go:build e2e

// Package dev tests kerege dev as its user has it: the built program, the real
// Envoy, ordinary HTTP programs, and files that are edited.
package dev

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kerege/kerege/e2e/parts"
)

// report is what kerege dev -json prints.
type report struct {
	Generation int
	Server     string
	Data       string
	NotReady   []string `json:"not_ready"`
	Instances  []struct {
		Service, Instance string
		Upstreams         []struct {
			Service, Address, Allowed string
		}
	}
}

// at is where one service calls another.
func (r report) at(t *testing.T, from, to string) string {
	t.Helper()
	for _, in := range r.Instances {
		for _, u := range in.Upstreams {
			if in.Service == from && u.Service == to {
				return u.Address
			}
		}
	}
	t.Fatalf("%s cannot call %s: %+v", from, to, r)
	return ""
}

// programs are kerege and Envoy where every user of this host may run them.
type programs struct{ dir, kerege, envoy string }

func build(t *testing.T) programs {
	t.Helper()
	dir, err := os.MkdirTemp("", "krdev")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	p := programs{dir: dir, kerege: filepath.Join(dir, "kerege"), envoy: filepath.Join(dir, "envoy")}
	if out, err := exec.Command("go", "build", "-o", p.kerege, "github.com/kerege/kerege").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	from, err := os.Open(parts.Path(t, "envoy"))
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	to, err := os.OpenFile(p.envoy, os.O_CREATE|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(to, from); err != nil {
		t.Fatal(err)
	}
	if err := to.Close(); err != nil {
		t.Fatal(err)
	}
	return p
}

// session is one kerege dev that runs.
type session struct {
	t       *testing.T
	cmd     *exec.Cmd
	reports chan report
	exited  chan error
	mu      sync.Mutex
	stderr  bytes.Buffer
}

func (s *session) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stderr.Write(b)
}

func (s *session) said() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stderr.String()
}

// start runs a command line of kerege dev -json.
func start(t *testing.T, p programs, line ...string) *session {
	t.Helper()
	s := &session{t: t, cmd: exec.Command(line[0], line[1:]...), reports: make(chan report, 100), exited: make(chan error, 1)}
	s.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "ENVOY=" + p.envoy}
	s.cmd.Dir = p.dir
	s.cmd.Stderr = s
	out, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		d := json.NewDecoder(bufio.NewReader(out))
		for {
			var r report
			if err := d.Decode(&r); err != nil {
				break
			}
			s.reports <- r
		}
		s.exited <- s.cmd.Wait()
	}()
	t.Cleanup(func() {
		if s.cmd.ProcessState == nil {
			_ = s.cmd.Process.Signal(syscall.SIGTERM)
			select {
			case <-s.exited:
			case <-time.After(15 * time.Second):
				_ = s.cmd.Process.Kill()
				<-s.exited
			}
		}
		if t.Failed() {
			t.Logf("kerege dev said: %s", s.said())
		}
	})
	return s
}

// report waits for the one that a check accepts.
func (s *session) report(what string, ok func(report) bool) report {
	s.t.Helper()
	deadline := time.After(45 * time.Second)
	for {
		select {
		case r := <-s.reports:
			if len(r.NotReady) > 0 {
				s.t.Fatalf("%s: not ready: %v", what, r.NotReady)
			}
			if ok(r) {
				return r
			}
		case err := <-s.exited:
			s.exited <- err
			s.t.Fatalf("%s: kerege dev ended: %v: %s", what, err, s.said())
		case <-deadline:
			s.t.Fatalf("%s: no report for 45 s: %s", what, s.said())
		}
	}
}

// interrupt is Ctrl-C. It holds kerege dev to a clean end.
func (s *session) interrupt(r report) {
	s.t.Helper()
	run := strings.TrimSuffix(strings.TrimPrefix(r.Server, "unix://"), "/server/api.sock")
	if n := processesOf(s.t, run); n != len(r.Instances) {
		s.t.Errorf("%d Envoys run for %d instances", n, len(r.Instances))
	}
	if err := s.cmd.Process.Signal(os.Interrupt); err != nil {
		s.t.Fatal(err)
	}
	select {
	case err := <-s.exited:
		s.exited <- err
		if err != nil {
			s.t.Errorf("after Ctrl-C: %v", err)
		}
	case <-time.After(15 * time.Second):
		s.t.Fatal("kerege dev does not end")
	}
	if n := processesOf(s.t, run); n != 0 {
		s.t.Errorf("%d Envoys are left", n)
	}
	if _, err := os.Stat(run); !errors.Is(err, os.ErrNotExist) {
		s.t.Errorf("%s is left: %v", run, err)
	}
}

// processesOf counts the processes that name a folder.
func processesOf(t *testing.T, dir string) (n int) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range all {
		text, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(text), dir) {
			n++
		}
	}
	return n
}

// app is an ordinary program: it says its name and who called.
func app(t *testing.T, name string) int {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s", name, r.Header.Get("x-forwarded-client-cert"))
	}))
	t.Cleanup(s.Close)
	var port int
	if _, err := fmt.Sscanf(s.URL, "http://127.0.0.1:%d", &port); err != nil {
		t.Fatal(err)
	}
	return port
}

func get(url string) (status int, text string) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return 0, err.Error()
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err.Error()
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return 0, err.Error()
	}
	return res.StatusCode, string(body)
}

func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited 20 s: %s", what)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
