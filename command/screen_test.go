package command

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

func TestWrap(t *testing.T) {
	for _, c := range []struct {
		text             string
		from, hang, wide int
		want             string
	}{
		{"one two three", 0, 2, 40, "one two three"},
		{"one two three", 0, 2, 8, "one two\n  three"},
		{"one two three", 4, 4, 8, "one\n    two\n    three"},
		{"  name    a long sentence", 0, 10, 18, "  name    a long\n          sentence"},
		{"averyveryverylongword x", 0, 2, 8, "averyveryverylongword\n  x"},
		{"\x1b[31mone two\x1b[0m three", 0, 0, 7, "\x1b[31mone two\x1b[0m\nthree"},
		{"web → api", 0, 0, 9, "web → api"},
		{"", 0, 2, 8, ""},
	} {
		if got := strings.Join(wrap(c.text, c.from, c.hang, c.wide), "\n"); got != c.want {
			t.Errorf("%q in %d columns:\n%s\nwant\n%s", c.text, c.wide, got, c.want)
		}
	}
}

func TestTableFits(t *testing.T) {
	var out bytes.Buffer
	var tab table
	tab.add("  10.0.0.1:80", "vm-1", "held: its host is not in the mesh")
	tab.add("  10.0.0.2:80", "vm-2", "in")
	tab.add("  "+strings.Repeat("x", 30), "vm-3", "held: its host is not in")
	tab.fit(terminal{out: &out, wide: 40})
	for line := range strings.Lines(out.String()) {
		if n := width(strings.TrimRight(line, "\n")); n > 40 {
			t.Errorf("%d columns: %s", n, line)
		}
	}
	if got := strings.Join(strings.Fields(out.String()), " "); !strings.Contains(got, "vm-1 held: its host is not in the mesh 10.0.0.2:80") {
		t.Errorf("words are lost:\n%s", &out)
	}
}

func TestScreen(t *testing.T) {
	t.Setenv("COLUMNS", "")
	if got := screen(&bytes.Buffer{}); got != unknownScreen {
		t.Errorf("a pipe is %d columns", got)
	}
	if f, err := os.Open(os.DevNull); err != nil || screen(f) != unknownScreen {
		t.Errorf("no terminal: %v", err)
	}
	t.Setenv("COLUMNS", "80")
	if got := screen(&bytes.Buffer{}); got != 80 {
		t.Errorf("%d columns, and COLUMNS says 80", got)
	}
}
