// Package tools knows the pinned versions of the real parts.
package tools

import (
	_ "embed"
	"fmt"
	"strings"
)

//go:embed versions.env
var versions string

// Version returns the pinned version of envoy, consul, nomad or cloud-init.
func Version(name string) (string, error) {
	key := strings.ToUpper(strings.ReplaceAll(name, "-", "_")) + "_VERSION="
	for line := range strings.Lines(versions) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), key); ok {
			return v, nil
		}
	}
	return "", fmt.Errorf("no pinned version of %q in tools/versions.env", name)
}
