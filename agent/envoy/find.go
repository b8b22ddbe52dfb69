package envoy

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
)

// minimum is the oldest Envoy that takes what package xds says, with the fixes
// that its threat model counts on.
var minimum = [3]int{1, 40, 0}

// FindEnvoy returns the path of Envoy: the flag's, else $ENVOY, else the one on PATH.
func FindEnvoy(flag string) (string, error) {
	for _, p := range []struct{ from, path string }{{"-envoy", flag}, {"$ENVOY", os.Getenv("ENVOY")}} {
		if p.path == "" {
			continue
		}
		path, err := exec.LookPath(p.path)
		if err != nil {
			return "", fmt.Errorf("finding Envoy at %s, as %s says: %w", p.path, p.from, err)
		}
		return path, nil
	}
	path, err := exec.LookPath("envoy")
	if err != nil {
		return "", fmt.Errorf("finding Envoy: it is not on PATH; install Envoy %s or newer, or name it with -envoy or $ENVOY", version(minimum))
	}
	return path, nil
}

type version [3]int

func (v version) String() string { return fmt.Sprintf("%d.%d.%d", v[0], v[1], v[2]) }

var versionLine = regexp.MustCompile(`version: [0-9a-f]+/(\d+)\.(\d+)\.(\d+)[-/]`)

// Version asks an Envoy for its version.
func Version(ctx context.Context, path string) (string, error) {
	v, err := ask(ctx, path)
	if err != nil {
		return "", err
	}
	return v.String(), nil
}

// Check refuses an Envoy that is too old.
func Check(ctx context.Context, path string) error {
	v, err := ask(ctx, path)
	if err != nil {
		return err
	}
	for i := range v {
		if v[i] != minimum[i] {
			if v[i] > minimum[i] {
				return nil
			}
			return fmt.Errorf("checking Envoy: %s is version %s, and kerege needs %s or newer", path, v, version(minimum))
		}
	}
	return nil
}

func ask(ctx context.Context, path string) (version, error) {
	out, err := exec.CommandContext(ctx, path, "--version").CombinedOutput()
	if err != nil {
		return version{}, fmt.Errorf("asking %s for its version: %w", path, err)
	}
	return parseVersion(path, string(out))
}

func parseVersion(path, text string) (version, error) {
	m := versionLine.FindStringSubmatch(text)
	if m == nil {
		return version{}, fmt.Errorf("asking %s for its version: %.80q is not what Envoy answers", path, text)
	}
	var v version
	for i := range v {
		v[i], _ = strconv.Atoi(m[i+1]) // digits by the expression; one too long reads as the largest
	}
	return v, nil
}
