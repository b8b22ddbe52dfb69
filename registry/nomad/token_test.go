package nomad

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A token's file that was never read stops the request, which would be anonymous
// and be answered with nothing; one that was read counts on while it cannot be.
func TestATokenFileThatCannotBeRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "token")
	token := tokens(Options{TokenFile: path}, "")
	for _, c := range []struct {
		what, file, want, err string
		gone                  bool
	}{
		{what: "there is none", gone: true, err: "no such file"},
		{what: "it is empty", file: " \n", err: path + " is empty"},
		{what: "it is written", file: "one\n", want: "one"},
		{what: "it is emptied", file: "", want: "one"},
		{what: "it is taken away", gone: true, want: "one"},
		{what: "it is another", file: "two-two", want: "two-two"},
	} {
		var err error
		if c.gone {
			_ = os.Remove(path)
		} else {
			err = os.WriteFile(path, []byte(c.file), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		got, err := token()
		if got != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%s: token %q, error %v; want %q, %q", c.what, got, err, c.want, c.err)
		}
	}
}
