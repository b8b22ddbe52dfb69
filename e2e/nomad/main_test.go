//go:build e2e

package nomad_test

import (
	"fmt"
	"os"
	"testing"

	"github.com/kerege/kerege/e2e/lab"
)

func TestMain(m *testing.M) {
	if !lab.Inside() {
		code, err := lab.Enter()
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(code)
	}
	os.Exit(m.Run())
}
