package envoy

import (
	"bytes"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kerege/kerege/mesh"
)

var update = flag.Bool("update", false, "write the golden files anew")

func configs() map[string]Config {
	return map[string]Config{
		"capture": {
			ID: mesh.ProxyID{Service: "web", Node: "n1", Workload: "a1"}, Dir: "/run/kerege/proxy/web.a1",
			InboundPort: 15016, OutboundPort: 15011, NoIPv6: true, Limits: Limits{Cgroup: true, Connections: 32000},
		},
		"explicit": {
			ID: mesh.ProxyID{Service: "web", Node: "n1"}, Dir: "/run/kerege/proxy/web",
			Explicit: []Explicit{{Service: "api", Port: 8080, LocalPort: 5001}},
			Accept:   []Accept{{Listen: netip.MustParseAddrPort("127.0.0.1:21000"), App: netip.MustParseAddrPort("127.0.0.1:8080")}},
			Limits:   Limits{Heap: 1 << 30, Connections: 448},
		},
	}
}

func TestBootstrapGolden(t *testing.T) {
	for name, c := range configs() {
		got, err := Bootstrap(c)
		if err != nil {
			t.Fatal(err)
		}
		for range 20 { // protojson varies what it may
			if again, _ := Bootstrap(c); !bytes.Equal(got, again) {
				t.Fatalf("%s: not the same bytes twice", name)
			}
		}
		path := filepath.Join("testdata", name+".json")
		if *update {
			if err := os.WriteFile(path, got, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s differs (go test ./agent/envoy -update shows how, in git diff)", path)
		}
	}
}

func TestASocketPathThatTheKernelRefusesIsNamed(t *testing.T) {
	c := configs()["capture"]
	c.Dir = "/" + strings.Repeat("d", 100)
	if _, err := Bootstrap(c); err == nil || !strings.Contains(err.Error(), "run_dir") {
		t.Errorf("%v", err)
	}
}

func TestHalfOfTheDescriptorsAreForConnections(t *testing.T) {
	for files, most := range map[uint64]uint32{1024: 511, 65536: 32767, 64: 31, 1: 1} {
		if got := connectionsFor(files); got > most || got == 0 {
			t.Errorf("%d descriptors: %d connections", files, got)
		}
	}
}

func TestMemory(t *testing.T) {
	dir := t.TempDir()
	write := func(path, text string) string {
		path = filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if n, err := memory(write("meminfo", "MemTotal:       2048 kB\nMemFree: 1 kB\n")); n != 2<<20 || err != nil {
		t.Error(n, err)
	}
	if _, err := memory(write("none", "MemFree: 1 kB\n")); err == nil {
		t.Error("no total, no error")
	}
	write("cg/kerege.slice/memory.max", "1048576\n")
	if n := ownCgroupLimit(write("self", "1:name=systemd:/x\n0::/kerege.slice\n"), filepath.Join(dir, "cg")); n != 1<<20 {
		t.Error(n)
	}
	write("cg/kerege.slice/memory.max", "max\n")
	if n := ownCgroupLimit(filepath.Join(dir, "self"), filepath.Join(dir, "cg")); n != 0 {
		t.Error(n)
	}
}
