package main

import (
	"bytes"
	"fmt"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"golang.org/x/sys/unix"

	"github.com/kerege/kerege/config"
)

// Compile is what reading the mesh's files costs: CPU of the process, medians.
type Compile struct {
	Files, Routes int
	Bytes         int
	Parse         time.Duration // by hcl alone, to its syntax tree: the floor
	Cold          time.Duration // read, checked and compiled
	Edit          time.Duration // the same again after one file of them changed
	OfFloor       float64       // Cold / Parse
	Allocated     uint64        // by Cold, bytes
	Kept          uint64        // from one load to the next, bytes
}

// runCompile is benchmark 7, on one core.
func runCompile(f flags) (any, error) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	files := manyRoutes(100, 100)
	out := &Compile{Files: len(files), Routes: 100 * 100}
	for _, text := range files {
		out.Bytes += len(text)
	}
	var parse, cold, edit []time.Duration
	for r := range min(f.rounds, 5) {
		debug.FreeOSMemory() // what was before is not this round's garbage
		before := processCPU()
		for name, text := range files {
			if _, diags := hclsyntax.ParseConfig(text, name, hcl.InitialPos); diags.HasErrors() {
				return nil, fmt.Errorf("parsing %s: %w", name, diags)
			}
		}
		parse = append(parse, processCPU()-before)
		debug.FreeOSMemory()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		was, idle := m.TotalAlloc, m.HeapAlloc
		before = processCPU()
		loader := &config.Loader{}
		if err := load10k(loader, files, out.Routes); err != nil {
			return nil, err
		}
		cold = append(cold, processCPU()-before)
		runtime.ReadMemStats(&m)
		out.Allocated = m.TotalAlloc - was
		runtime.GC()
		runtime.ReadMemStats(&m)
		out.Kept = m.HeapAlloc - idle
		files["f-050.hcl"] = bytes.ReplaceAll(files["f-050.hcl"], []byte("weight = 10"), fmt.Appendf(nil, "weight = %d", 20+r))
		before = processCPU()
		if err := load10k(loader, files, out.Routes); err != nil {
			return nil, err
		}
		edit = append(edit, processCPU()-before)
		files = manyRoutes(100, 100)
	}
	out.Parse, out.Cold, out.Edit = quantile(parse, 0.5), quantile(cold, 0.5), quantile(edit, 0.5)
	out.OfFloor = ratio(out.Cold, out.Parse)
	fmt.Printf("\n%d routes, as many services and intentions, in %d files, %d KiB; CPU on one core, garbage collection included\n", out.Routes, out.Files, out.Bytes>>10)
	t := newTable("CPU", "of the floor", "allocated", "kept")
	t.row("hcl's parser alone (floor)", out.Parse, 1.0, "", "")
	t.row("cold", out.Cold, out.OfFloor, fmt.Sprintf("%d MiB", out.Allocated>>20), fmt.Sprintf("%d MiB", out.Kept>>20))
	t.row("after one edit", out.Edit, ratio(out.Edit, out.Parse), "", "")
	t.print()
	return out, nil
}

func load10k(loader *config.Loader, files map[string][]byte, routes int) error {
	m, diags := loader.LoadBytes(files)
	if m == nil || len(m.Routes) != routes {
		return fmt.Errorf("compiling %d files: %w", len(files), diags)
	}
	return nil
}

// processCPU is this process's CPU time.
func processCPU() time.Duration {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// manyRoutes is a mesh of routes in files, each with a service and an intention.
func manyRoutes(files, routes int) map[string][]byte {
	out := map[string][]byte{}
	for f := range files {
		var b bytes.Buffer
		for r := range routes {
			name := fmt.Sprintf("s%d-%d", f, r)
			fmt.Fprintf(&b, `
service %[1]q {
  subset "v1" { filter = "Service.Meta.version == v1" }
  subset "v2" { filter = "Service.Meta.version == v2" }
}

route %[1]q {
  rule "canary" {
    match { path_prefix = "/v1" }
    to "%[1]s.v2" { weight = 10 }
    to "%[1]s.v1" {}
  }
}

intention %[1]q {
  allow { from = ["web"] }
}
`, name)
		}
		out[fmt.Sprintf("f-%03d.hcl", f)] = b.Bytes()
	}
	return out
}
