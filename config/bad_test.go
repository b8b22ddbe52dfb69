package config

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var wantComment = regexp.MustCompile(`# want: (KRG\d+) (.*)$`)

// TestBad loads texts whose guilty lines say what is expected of them: those
// findings, at those lines, and no others.
func TestBad(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.hcl")
	if err != nil || len(files) < 10 {
		t.Fatalf("found %d files, %v", len(files), err)
	}
	for _, name := range files {
		t.Run(filepath.Base(name), func(t *testing.T) {
			src, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			want := map[int]*[3]string{}
			for i, line := range strings.Split(string(src), "\n") {
				if m := wantComment.FindStringSubmatch(line); m != nil {
					want[i+1] = &[3]string{m[1], m[2], ""}
				}
			}
			m, diags := LoadBytes(map[string][]byte{name: src})
			if diags.HasErrors() != (m == nil) {
				t.Errorf("errors: %v, mesh: %v", diags.HasErrors(), m != nil)
			}
			for _, d := range diags {
				w := want[d.Line]
				if w == nil || w[0] != d.Code || !strings.Contains(d.Message, w[1]) {
					t.Errorf("not expected:\n%s", rendered(Diagnostics{d}))
					continue
				}
				w[2] = "seen"
				if d.Column < 1 || d.Source == "" {
					t.Errorf("no place in:\n%s", rendered(Diagnostics{d}))
				}
			}
			for line, w := range want {
				if w[2] == "" {
					t.Errorf("line %d: no %s %s", line, w[0], w[1])
				}
			}
		})
	}
}

// TestErrorsNameBothPlaces holds duplicates to naming the first one's line too.
func TestErrorsNameBothPlaces(t *testing.T) {
	_, diags := LoadBytes(map[string][]byte{
		"a.hcl": []byte("\nservice \"api\" {}\n"),
		"b.hcl": []byte("service \"api\" {}\n"),
	})
	if len(diags) != 1 || len(diags[0].Related) != 1 {
		t.Fatalf("got\n%s", rendered(diags))
	}
	d := diags[0]
	if got := fmt.Sprint(d.File, d.Line, d.Related[0].File, d.Related[0].Line); got != "b.hcl1a.hcl2" && got != "b.hcl 1 a.hcl 2" {
		t.Errorf("places are %s", got)
	}
}
