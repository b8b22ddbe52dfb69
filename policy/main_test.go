package policy

import (
	"flag"
	"os"
	"testing"
)

// The properties run 1,000 cases unless the command line says otherwise.
func TestMain(m *testing.M) {
	flag.Parse()
	said := testing.Short()
	flag.Visit(func(f *flag.Flag) { said = said || f.Name == "rapid.checks" })
	if !said {
		flag.Set("rapid.checks", "1000")
	}
	os.Exit(m.Run())
}
