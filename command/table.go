package command

import (
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"
)

// table prints aligned columns. Colour escapes do not count as width.
type table struct {
	rows [][]string
}

func (t *table) add(cells ...string) { t.rows = append(t.rows, cells) }

// alignedTo is the widest cell that others of its column are padded to: a longer
// one shifts the rest of its own row, and not every row off the screen.
const alignedTo = 34

// print prints the rows as long as they are.
func (t *table) print(w io.Writer) { t.lay(w, 1<<30) }

// fit prints the rows no wider than the terminal: their last cells go on below
// themselves.
func (t *table) fit(to terminal) { t.lay(to.out, to.columns()) }

func (t *table) lay(w io.Writer, wide int) {
	var widths []int
	for _, row := range t.rows {
		for i, cell := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			if n := width(cell); n <= alignedTo {
				widths[i] = max(widths[i], n)
			}
		}
	}
	for _, row := range t.rows {
		var b strings.Builder
		last := len(row) - 1
		for last > 0 && row[last] == "" {
			last--
		}
		column := 0
		for i, cell := range row[:last+1] {
			if i == last { // a cell that begins far to the right goes on where the row is indented
				hang := column
				if hang > wide/2 {
					hang = len(row[0]) - len(strings.TrimLeft(row[0], " ")) + 4
				}
				cell = strings.Join(wrap(cell, column, hang, wide), "\n")
			}
			b.WriteString(cell)
			if i < last {
				b.WriteString(strings.Repeat(" ", max(widths[i]-width(cell), 0)+2))
				column = width(b.String())
			}
		}
		fmt.Fprintln(w, strings.TrimRight(b.String(), " "))
	}
}

func width(s string) int {
	n, escape := 0, false
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		s = s[size:]
		switch {
		case r == '\x1b':
			escape = true
		case escape:
			escape = r != 'm'
		default:
			n++
		}
	}
	return n
}

// plain makes text from elsewhere (registries, Envoy) harmless on a terminal.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if r < 0x20 || r == 0x7f || (r >= 0x80 && r < 0xa0) {
			return '\ufffd'
		}
		return r
	}, s)
}

// ago is a duration for people: "0.3 s", "12 s", "5 min", "3 h", "2 d".
func ago(d time.Duration) string {
	switch {
	case d < 0:
		return "0 s"
	case d < 10*time.Second:
		return fmt.Sprintf("%.1f s", d.Seconds())
	case d < 2*time.Minute:
		return fmt.Sprintf("%d s", int(d.Seconds()))
	case d < 2*time.Hour:
		return fmt.Sprintf("%d min", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h", int(d.Hours()))
	}
	return fmt.Sprintf("%d d", int(d.Hours()/24))
}

func since(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return ago(time.Since(t)) + " ago"
}

func count(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
