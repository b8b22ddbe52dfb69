//go:build e2e

package lab

import (
	"fmt"
	"os"
	"testing"
)

func TestMain(m *testing.M) {
	if !Inside() {
		code, err := Enter()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(code)
	}
	os.Exit(m.Run())
}
