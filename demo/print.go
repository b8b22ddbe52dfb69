package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/mattn/go-isatty"
)

// story prints chapters; a claim that is not so ends it.
type story struct {
	chapter int
	began   time.Time
	color   bool
}

func newStory() *story {
	return &story{began: time.Now(), color: os.Getenv("NO_COLOR") == "" && isatty.IsTerminal(os.Stdout.Fd())}
}

func (s *story) paint(code, text string) string {
	if !s.color {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// begin opens a chapter.
func (s *story) begin(title string) {
	s.chapter++
	fmt.Printf("\n%s  %s\n", s.paint("1", fmt.Sprintf("%2d", s.chapter)), s.paint("1", title))
}

// hcl shows the lines of configuration that a claim rests on.
func (s *story) hcl(where, text string) {
	for i, line := range strings.Split(strings.TrimRight(text, "\n"), "\n") {
		label := ""
		if i == 0 {
			label = where
		}
		fmt.Printf("    %s  %s\n", s.paint("36", fmt.Sprintf("%-14s", label)), line)
	}
}

// see names the command that shows a claim.
func (s *story) see(command string) { fmt.Printf("    %-14s  $ %s\n", "see", command) }

// note adds a plain line.
func (s *story) note(format string, args ...any) {
	fmt.Printf("    %-14s  %s\n", "", fmt.Sprintf(format, args...))
}

// claim prints what was seen. It is only called when it was.
func (s *story) claim(format string, args ...any) {
	fmt.Printf("    %s\n", s.paint("32", "✓ "+fmt.Sprintf(format, args...)))
}
