package config

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// fence is one fenced block of a page.
type fence struct {
	where string
	info  []string
	text  []byte
}

func fences(t *testing.T, name string) []fence {
	t.Helper()
	src, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	var out []fence
	var open *fence
	for i, line := range strings.SplitAfter(string(src), "\n") {
		info, isFence := strings.CutPrefix(strings.TrimSpace(line), "```")
		switch {
		case isFence && open == nil:
			open = &fence{where: fmt.Sprintf("%s:%d", name, i+1), info: strings.Fields(info)}
		case isFence:
			out = append(out, *open)
			open = nil
		case open != nil:
			open.text = append(open.text, line...)
		}
	}
	return out
}

// pages are all Markdown files of the project that a user reads.
func pages(t *testing.T) []string {
	t.Helper()
	out := []string{}
	for _, root := range []string{"../README.md", "../SECURITY.md", "../CHANGELOG.md", "../docs", "../examples", "../nomad-jobs", "../systemd", "../demo"} {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if os.IsNotExist(err) {
				return nil
			}
			if err == nil && !d.IsDir() && strings.HasSuffix(path, ".md") {
				out = append(out, path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// TestDocs parses every ```hcl block of the pages: as mesh configuration, or as
// what its info string says: ```hcl agent, ```hcl server. Blocks of other tools
// are ```hcl nomad and ```hcl consul.
func TestDocs(t *testing.T) {
	for _, page := range pages(t) {
		for _, f := range fences(t, page) {
			if len(f.info) == 0 || f.info[0] != "hcl" {
				continue
			}
			kind := strings.Join(f.info[1:], " ")
			if strings.HasPrefix(kind, "/etc/kerege.d/mesh/") {
				kind = "" // the page says into which file the block goes
			}
			files := map[string][]byte{f.where + ".hcl": f.text}
			var diags Diagnostics
			switch kind {
			case "nomad", "consul":
				continue
			case "agent":
				_, diags = LoadAgentBytes(files)
			case "server":
				_, diags = LoadServerBytes(files)
			case "":
				_, diags = LoadBytes(files)
			default:
				t.Errorf("%s: unknown kind of block %q", f.where, kind)
			}
			// A page shows parts: what is declared beside them is not there.
			for _, d := range diags {
				if d.Severity == Error && d.Code != codeReference {
					t.Errorf("%s:\n%s", f.where, rendered(Diagnostics{d}))
				}
			}
			if !bytes.Equal(f.text, Format("a.hcl", f.text)) {
				t.Errorf("%s: the block does not format to itself", f.where)
			}
		}
	}
}
