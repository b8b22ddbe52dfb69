package config

import (
	"fmt"
	"io"
	"strings"
	"unicode"
)

const (
	ansiReset  = "\x1b[0m"
	ansiBold   = "\x1b[1m"
	ansiRed    = "\x1b[31m"
	ansiYellow = "\x1b[33m"
	ansiCyan   = "\x1b[36m"
)

// WriteText writes the diagnostics for a person at a terminal: place, message
// and code, the line with a caret, what surrounds it, and the fix. Control
// characters of the user's text are made visible, never sent.
func (d Diagnostics) WriteText(w io.Writer, color bool) error {
	var b strings.Builder
	for i, x := range d {
		if i > 0 {
			b.WriteByte('\n')
		}
		x.text(&b, color)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func (x *Diagnostic) text(b *strings.Builder, color bool) {
	paint := func(code, s string) string {
		if !color {
			return s
		}
		return code + s + ansiReset
	}
	tone := ansiRed
	if x.Severity == Warning {
		tone = ansiYellow
	}
	fmt.Fprintf(b, "%s %s %s  %s\n", paint(tone+ansiBold, string(x.Severity)+":"),
		paint(ansiBold, x.Position.String()+":"), printable(x.Message), paint(ansiCyan, "["+x.Code+"]"))
	if x.In != "" {
		fmt.Fprintf(b, "       in %s\n", printable(x.In))
	}
	width := 1
	if x.EndLine == x.Line {
		width = max(1, x.EndColumn-x.Column)
	}
	snippet(b, x.Position, x.Source, width, func(s string) string { return paint(tone+ansiBold, s) })
	for _, r := range x.Related {
		fmt.Fprintf(b, "       %s: %s\n", printable(r.Message), r.Position)
		snippet(b, r.Position, r.Source, 1, func(s string) string { return paint(ansiCyan, s) })
	}
	if x.Fix != "" {
		for i, line := range strings.Split(x.Fix, "\n") {
			head := "  fix: "
			if i > 0 {
				head = "       "
			}
			fmt.Fprintf(b, "%s%s\n", paint(ansiBold, head), printable(line))
		}
	}
}

// shown is how much of a long line is printed, in characters.
const shown = 160

func snippet(b *strings.Builder, p Position, source string, width int, paint func(string) string) {
	if source == "" {
		return
	}
	line := []rune(source)
	for i, r := range line {
		line[i] = visible(r)
	}
	col, left, right := p.Column-1, "", ""
	if col > len(line) {
		col = len(line)
	}
	if start := col - shown/2; len(line) > shown && start > 0 {
		line, col, left = line[start:], col-start+1, "…"
	}
	if len(line) > shown {
		line, right = line[:shown], "…"
	}
	width = max(1, min(width, len(line)+len([]rune(left))-col))
	fmt.Fprintf(b, " %5d | %s%s%s\n", p.Line, left, strings.TrimRight(string(line), " "), right)
	fmt.Fprintf(b, "       | %s%s\n", strings.Repeat(" ", col), paint(strings.Repeat("^", width)))
}

// visible keeps a character's width and takes its power over a terminal.
func visible(r rune) rune {
	switch {
	case r == '\t':
		return ' '
	case unicode.IsControl(r), unicode.Is(unicode.Cf, r), r == '\u2028', r == '\u2029':
		return '\uFFFD'
	}
	return r
}

func printable(s string) string { return strings.Map(visible, s) }
