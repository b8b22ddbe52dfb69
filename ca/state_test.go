package ca

import (
	"bufio"
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kerege/kerege/durable"
)

// TestMain lets a test run its own binary as a server that kills itself at the
// n-th change of the disk.
func TestMain(m *testing.M) {
	dir := os.Getenv("KEREGE_CA_TEST_DIR")
	if dir == "" {
		os.Exit(m.Run())
	}
	at, _ := strconv.Atoi(os.Getenv("KEREGE_CA_TEST_STEP"))
	later, _ := time.ParseDuration(os.Getenv("KEREGE_CA_TEST_LATER"))
	n := 0
	a, err := Open(dir, Options{TrustDomain: "kerege.test", Now: func() time.Time { return newClock().t.Add(later) }, step: func(what string) {
		if n++; n == at {
			fmt.Println("killed before", what)
			syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}})
	if err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
	fmt.Printf("whole %x\n", a.Hash())
}

// child runs Open in a process that dies at a step, and gives its last line.
func child(t *testing.T, dir string, step int, later time.Duration) string {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "KEREGE_CA_TEST_DIR="+dir, "KEREGE_CA_TEST_STEP="+strconv.Itoa(step), "KEREGE_CA_TEST_LATER="+later.String())
	out, _ := cmd.Output()
	last := ""
	for s := bufio.NewScanner(bytes.NewReader(out)); s.Scan(); {
		last = s.Text()
	}
	return last
}

func TestKilledAtEveryStepOfTheFirstStart(t *testing.T) {
	for step := 1; ; step++ {
		dir := filepath.Join(t.TempDir(), "ca")
		said := child(t, dir, step, 0)
		if strings.HasPrefix(said, "whole") {
			if step < 12 {
				t.Errorf("only %d steps were seen", step)
			}
			return
		}
		if !strings.HasPrefix(said, "killed") {
			t.Fatalf("step %d: %s", step, said)
		}
		var before [32]byte
		made := false
		if _, err := os.Stat(filepath.Join(dir, stateFile)); err == nil {
			made = true
			text, err := readFile(filepath.Join(dir, stateFile), "ca")
			if err != nil {
				t.Fatalf("%s: half a state: %v", said, err)
			}
			s, err := (&Authority{opt: Options{TrustDomain: "kerege.test"}}).parse(text)
			if err != nil {
				t.Fatal(err)
			}
			before = Hash(s.roots[0])
		}
		a := open(t, dir, Options{Now: newClock().now})
		if made && a.Hash() != before {
			t.Errorf("%s: a second root", said)
		}
		for _, d := range []string{dir, filepath.Dir(dir)} {
			list, _ := os.ReadDir(d)
			for _, e := range list {
				if durable.Leftover(e.Name()) {
					t.Errorf("%s: %s is left over", said, e.Name())
				}
			}
		}
	}
}

func TestKilledAtEveryStepOfARenewal(t *testing.T) {
	const later = 300 * 24 * time.Hour
	for step := 1; ; step++ {
		dir := filepath.Join(t.TempDir(), "ca")
		a := open(t, dir, Options{Now: newClock().now})
		hash := a.Hash()
		a.Close()
		old, err := os.ReadFile(filepath.Join(dir, stateFile))
		if err != nil {
			t.Fatal(err)
		}
		said := child(t, dir, step, later)
		if strings.HasPrefix(said, "whole") {
			if step < 5 {
				t.Errorf("only %d steps were seen", step)
			}
			return
		}
		now, err := readFile(filepath.Join(dir, stateFile), "ca")
		if err != nil {
			t.Fatalf("%s: %v", said, err)
		}
		if renamed := strings.Contains(said, "sync directory"); bytes.HasSuffix(old, now) == renamed {
			t.Errorf("%s: the wrong state", said)
		}
		c := &clock{newClock().t.Add(later)}
		b := open(t, dir, Options{Now: c.now})
		if b.Hash() != hash {
			t.Errorf("%s: another root", said)
		}
		chain, err := b.Sign(request(t, &x509.CertificateRequest{}, p256(t)), webID, 0)
		if err != nil {
			t.Fatal(err)
		}
		verify(t, b.Bundle(), chain, c.t)
	}
}

func TestDamageStopsTheStart(t *testing.T) {
	bend := func(name string) func(t *testing.T, dir string) {
		return func(t *testing.T, dir string) {
			path := filepath.Join(dir, name)
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			text[len(text)/2] ^= 1
			must(t, os.WriteFile(path, text, 0o600))
		}
	}
	for name, c := range map[string]struct {
		harm func(t *testing.T, dir string)
		says string
	}{
		"state bent":       {bend(stateFile), "checksum"},
		"root key bent":    {bend(rootKeyFile), "checksum"},
		"mark bent":        {bend("../ca" + markSuffix), "checksum"},
		"state cut":        {func(t *testing.T, d string) { must(t, os.Truncate(filepath.Join(d, stateFile), 100)) }, "checksum"},
		"state empty":      {func(t *testing.T, d string) { must(t, os.Truncate(filepath.Join(d, stateFile), 0)) }, "no file of kerege's"},
		"state missing":    {func(t *testing.T, d string) { must(t, os.Remove(filepath.Join(d, stateFile))) }, "missing"},
		"root key missing": {func(t *testing.T, d string) { must(t, os.Remove(filepath.Join(d, rootKeyFile))) }, "missing"},
		"state readable":   {func(t *testing.T, d string) { must(t, os.Chmod(filepath.Join(d, stateFile), 0o640)) }, "mode is 0640"},
		"key readable":     {func(t *testing.T, d string) { must(t, os.Chmod(filepath.Join(d, rootKeyFile), 0o604)) }, "mode is 0604"},
		"open directory":   {func(t *testing.T, d string) { must(t, os.Chmod(d, 0o755)) }, "mode is 0755"},
		"other owner":      {func(t *testing.T, d string) { must(t, os.Chown(filepath.Join(d, stateFile), 4242, -1)) }, "uid 4242"},
		"emptied": {func(t *testing.T, d string) {
			must(t, os.Remove(filepath.Join(d, stateFile)))
			must(t, os.Remove(filepath.Join(d, rootKeyFile)))
		}, "held a CA"},
		"gone": {func(t *testing.T, d string) { must(t, os.RemoveAll(d)) }, "held a CA"},
		"symlink": {func(t *testing.T, d string) {
			must(t, os.Rename(filepath.Join(d, stateFile), filepath.Join(d, "x")))
			must(t, os.Symlink("x", filepath.Join(d, stateFile)))
		}, "no regular file"},
		"replaced": {func(t *testing.T, d string) {
			other := filepath.Join(t.TempDir(), "ca")
			open(t, other, Options{}).Close()
			must(t, os.RemoveAll(d))
			must(t, os.Rename(other, d))
		}, "replaced"},
		"key of another root": {func(t *testing.T, d string) {
			other := filepath.Join(t.TempDir(), "ca")
			open(t, other, Options{}).Close()
			must(t, os.Rename(filepath.Join(other, rootKeyFile), filepath.Join(d, rootKeyFile)))
		}, "does not belong"},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "other owner" && os.Geteuid() != 0 {
				t.Skip("only root may give a file away")
			}
			dir := filepath.Join(t.TempDir(), "ca")
			open(t, dir, Options{}).Close()
			c.harm(t, dir)
			before := tree(t, filepath.Dir(dir))
			a, err := Open(dir, Options{TrustDomain: "kerege.test"})
			if !errors.Is(err, ErrDamaged) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("%v, want %q", err, c.says)
			}
			if a != nil {
				t.Error("it started")
			}
			if after := tree(t, filepath.Dir(dir)); after != before {
				t.Errorf("it changed the disk:\n%s\n%s", before, after)
			}
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// tree is every file below dir with its content.
func tree(t *testing.T, dir string) string {
	var out strings.Builder
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			fmt.Fprintln(&out, path)
			return err
		}
		text, err := os.ReadFile(path)
		fmt.Fprintf(&out, "%s %q\n", path, text)
		return err
	}))
	return out.String()
}

func TestTheRootKeyMayBeElsewhere(t *testing.T) {
	c := newClock()
	dir := filepath.Join(t.TempDir(), "ca")
	open(t, dir, Options{Now: c.now}).Close()
	must(t, os.Remove(filepath.Join(dir, rootKeyFile)))
	must(t, os.WriteFile(filepath.Join(dir, offlineFile), nil, 0o600))
	a := open(t, dir, Options{Now: c.now})
	if !a.Status().RootOffline {
		t.Error("the status does not say so")
	}
	csr := request(t, &x509.CertificateRequest{}, p256(t))
	c.t = c.t.Add(364 * 24 * time.Hour)
	chain, err := a.Sign(csr, webID, 0)
	must(t, err)
	verify(t, a.Bundle(), chain, c.t)
	c.t = c.t.Add(48 * time.Hour)
	if _, err := a.Sign(csr, webID, 0); err == nil || !strings.Contains(err.Error(), "bring the root's key back") {
		t.Error(err)
	}
}

func TestOneServerADirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	open(t, dir, Options{})
	if _, err := Open(dir, Options{TrustDomain: "kerege.test"}); err == nil || !strings.Contains(err.Error(), "another kerege server") {
		t.Error(err)
	}
}

func TestATrustDomainIsForLife(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "ca")
	open(t, dir, Options{}).Close()
	if _, err := Open(dir, Options{TrustDomain: "other.test"}); err == nil || !strings.Contains(err.Error(), "for life") {
		t.Error(err)
	}
}

func TestAFullDiskKeepsTheOldCA(t *testing.T) {
	c := newClock()
	dir := filepath.Join(t.TempDir(), "ca")
	a := open(t, dir, Options{Now: c.now})
	before := a.Status()
	c.t = c.t.Add(300 * 24 * time.Hour)
	moved := dir + ".away" // a directory that cannot be written to, whoever runs the test
	must(t, os.Rename(dir, moved))
	chain, err := a.Sign(request(t, &x509.CertificateRequest{}, p256(t)), webID, 0)
	must(t, err)
	verify(t, a.Bundle(), chain, c.t)
	if a.Status() != before {
		t.Error("an intermediate that is not on disk is used")
	}
	must(t, os.Rename(moved, dir))
	c.t = c.t.Add(2 * time.Minute)
	_, err = a.Sign(request(t, &x509.CertificateRequest{}, p256(t)), webID, 0)
	must(t, err)
	if !a.Status().IntermediateExpires.After(before.IntermediateExpires) {
		t.Error("it does not heal")
	}
}
