package seal

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestSealedFilesAreBelievedOnlyWhole(t *testing.T) {
	dir := t.TempDir()
	k, err := LoadKey(filepath.Join(dir, "key"), true)
	if err != nil {
		t.Fatal(err)
	}
	again, err := LoadKey(filepath.Join(dir, "key"), true)
	if err != nil || again != k {
		t.Fatalf("the key file is not what was made: %v", err)
	}
	path := filepath.Join(dir, "f")
	if _, _, err := k.Read(path, "cache", 1); !errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrUnusable) {
		t.Fatalf("no file: %v", err)
	}
	plain := []byte("a private thing")
	if err := k.Write(path, "cache", 1, plain); err != nil {
		t.Fatal(err)
	}
	got, v, err := k.Read(path, "cache", 3)
	if err != nil || v != 1 || !bytes.Equal(got, plain) {
		t.Fatalf("read %q %d %v", got, v, err)
	}
	text, _ := os.ReadFile(path)
	if bytes.Contains(text, plain) {
		t.Error("the file shows what it seals")
	}
	if info, _ := os.Stat(path); info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v", info.Mode())
	}
	if names, _ := os.ReadDir(dir); len(names) != 2 {
		t.Errorf("left over: %v", names)
	}
	for i := range text {
		bent := bytes.Clone(text)
		bent[i] ^= 1
		if err := os.WriteFile(path, bent, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := k.Read(path, "cache", 1); !errors.Is(err, ErrUnusable) {
			t.Fatalf("byte %d changed: %v", i, err)
		}
		if err := os.WriteFile(path, text[:i], 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := k.Read(path, "cache", 1); !errors.Is(err, ErrUnusable) {
			t.Fatalf("cut at %d: %v", i, err)
		}
	}
}

func TestWhyAFileIsRefused(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "f")
	k := NewKey()
	if err := k.Write(path, "cache", 2, []byte("x")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		key    Key
		kind   string
		latest int
		says   string
	}{
		{k, "other", 2, `it holds "cache", not "other"`},
		{k, "cache", 1, "later kerege"},
		{NewKey(), "cache", 2, "another key"},
	} {
		if _, _, err := c.key.Read(path, c.kind, c.latest); !errors.Is(err, ErrUnusable) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%v, want %q", err, c.says)
		}
	}
	to, err := Aside(path, time.Unix(0, 0))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(to); err != nil {
		t.Error(err)
	}
	if err := os.WriteFile(path, []byte("short"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadKey(path, true); err == nil {
		t.Error("a damaged key was replaced")
	}
	if got := fmt.Sprintf("%v %+v %#v %s", k, k, k, k); strings.Count(got, "[redacted]") != 4 || len(got) != 4*10+3 {
		t.Errorf("a key prints as %s", got)
	}
}
