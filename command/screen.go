package command

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// unknownScreen is how wide text is where nobody says how wide it may be: in a pipe.
const unknownScreen = 100

// screen is how many columns a writer shows.
func screen(w io.Writer) int {
	if n, err := strconv.Atoi(os.Getenv("COLUMNS")); err == nil && n >= 40 {
		return n
	}
	if f, ok := w.(*os.File); ok {
		if size, err := unix.IoctlGetWinsize(int(f.Fd()), unix.TIOCGWINSZ); err == nil && size.Col >= 40 {
			return int(size.Col)
		}
	}
	return unknownScreen
}

// columns is how wide the terminal is; a Call made without one has the width of a pipe.
func (t terminal) columns() int {
	if t.wide == 0 {
		return unknownScreen
	}
	return t.wide
}

// say prints one text, wrapped between words; its further lines are indented by hang
// columns.
func (t terminal) say(text string, hang int) {
	fmt.Fprintln(t.out, strings.Join(wrap(text, 0, hang, t.columns()), "\n"))
}

// wrap breaks text between words so that no line is wider than wide, where the first
// begins in column from and the others are indented by hang. A word that is wider
// stands alone. Spaces at the beginning, and two in a row, stay as they are.
func wrap(text string, from, hang, wide int) []string {
	var lines []string
	line, column := "", from
	for gap, rest := cutSpaces(text); rest != "" || gap != ""; gap, rest = cutSpaces(rest) {
		var word string
		word, rest = cutWord(rest)
		if column > hang && (from > hang || strings.TrimSpace(line) != "") && column+len(gap)+width(word) > wide {
			lines = append(lines, strings.TrimRight(line, " "))
			line, column, gap = strings.Repeat(" ", hang), hang, ""
		}
		line, column = line+gap+word, column+len(gap)+width(word)
	}
	return append(lines, strings.TrimRight(line, " "))
}

// cutSpaces takes the spaces from the beginning of a text.
func cutSpaces(s string) (gap, rest string) {
	rest = strings.TrimLeft(s, " ")
	return s[:len(s)-len(rest)], rest
}

func cutWord(s string) (word, rest string) {
	if i := strings.IndexByte(s, ' '); i >= 0 {
		return s[:i], s[i:]
	}
	return s, ""
}
