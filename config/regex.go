package config

import (
	"fmt"
	"regexp"
	"regexp/syntax"
)

// Bounds of a regular expression: Envoy's own limit on an RE2 program is the
// reason for the second, a proxy that refuses the whole update the price.
const (
	MaxRegexChars   = 1024
	MaxRegexProgram = 1000
)

func checkRegex(s string) (string, string) {
	if s == "" {
		return "is empty", "Write an expression, or leave the argument out."
	}
	if len(s) > MaxRegexChars {
		return fmt.Sprintf("has %d characters, more than %d", len(s), MaxRegexChars), "Say it with several match blocks."
	}
	re, err := syntax.Parse(s, syntax.Perl)
	if err != nil {
		return fmt.Sprintf("is not RE2: %s", errorText(err)), "RE2 has no look-around and no back-references; in HCL a backslash is written twice."
	}
	// Repetition multiplies: the program is only built once the tree is known
	// to be small enough.
	if size := programSize(re); size > MaxRegexProgram {
		return fmt.Sprintf("compiles to more than %d steps", MaxRegexProgram), "Repeat less ({1,100} copies what it repeats), or say it with several match blocks."
	}
	if _, err := regexp.Compile(s); err != nil {
		return fmt.Sprintf("is not RE2: %s", errorText(err)), ""
	}
	return "", ""
}

func errorText(err error) string {
	if e, ok := err.(*syntax.Error); ok {
		return fmt.Sprintf("%s: %s", e.Code, e.Expr)
	}
	return err.Error()
}

// programSize is an estimate of RE2's instructions, from above.
func programSize(re *syntax.Regexp) int {
	n := 1
	for _, sub := range re.Sub {
		n += programSize(sub)
		if n > 1<<20 {
			return n
		}
	}
	switch re.Op {
	case syntax.OpLiteral:
		n += len(re.Rune)
	case syntax.OpCharClass:
		n += len(re.Rune) / 2
	case syntax.OpCapture:
		n++
	case syntax.OpRepeat:
		n *= max(re.Max, re.Min+1, 1)
	}
	return n
}
