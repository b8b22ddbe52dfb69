package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"sync"
)

// profiled runs f with a CPU profile of its cold start, and another of what comes
// after f calls first; the heap is written in between.
func profiled(dir string, f func(first func()) error) error {
	if dir == "" {
		return f(func() {})
	}
	var files [3]*os.File
	for i, name := range []string{"cold.cpu", "heap", "changes.cpu"} {
		out, err := os.Create(filepath.Join(dir, name))
		if err != nil {
			return fmt.Errorf("profiling: %w", err)
		}
		defer out.Close()
		files[i] = out
	}
	if err := pprof.StartCPUProfile(files[0]); err != nil {
		return fmt.Errorf("profiling: %w", err)
	}
	defer pprof.StopCPUProfile()
	var failed error
	first := sync.OnceFunc(func() {
		pprof.StopCPUProfile()
		runtime.GC()
		if failed = pprof.Lookup("heap").WriteTo(files[1], 0); failed == nil {
			failed = pprof.StartCPUProfile(files[2])
		}
	})
	if err := f(first); err != nil {
		return err
	}
	if failed != nil {
		return fmt.Errorf("profiling: %w", failed)
	}
	return nil
}
