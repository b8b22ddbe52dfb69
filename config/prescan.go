package config

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/hashicorp/hcl/v2"
)

// Limits of what is read. hcl's parser recurses without a limit, and an
// overflow of the stack cannot be recovered from, so all of this is checked by
// a scanner without recursion before the parser sees a byte.
const (
	MaxFileBytes    = 4 << 20  // of one file
	MaxTotalBytes   = 32 << 20 // of one transaction
	MaxFiles        = 10_000   // of one transaction
	MaxDepth        = 128      // brackets inside brackets
	MaxBlocks       = 250_000  // opening braces of one transaction
	MaxTokens       = 400_000  // names, values and signs of one file
	MaxHeredocBytes = 64 << 10
	MaxStringBytes  = 64 << 10 // of one quoted string
)

// finding is what the scanner refuses, as a diagnostic without its place.
type finding struct {
	code, message, fix string
	start, end         hcl.Pos
}

// scanner walks HCL's native syntax. It accepts less than HCL: no templates,
// no operators, no calls; what it does not understand, it refuses, so that the
// parser only meets nesting that has been counted.
type scanner struct {
	src      []byte
	i        int // offset of the next byte
	line     int
	lineFrom int // offset of the line's first byte
	tokens   int
	braces   int
	open     []byte // brackets not yet closed
	openAt   []hcl.Pos
	bad      *finding
}

// Prescan looks at a file's bytes without recursion and says what is refused
// before parsing: depth, number of tokens, long strings, templates and
// expressions. It returns the number of blocks and objects.
func Prescan(name string, src []byte) (blocks int, diags Diagnostics) {
	s := newSink(map[string][]byte{name: src})
	n := prescan(s, name, src)
	return n, s.done()
}

func prescan(s *sink, name string, src []byte) int {
	sc := &scanner{src: src, line: 1}
	switch {
	case len(src) > MaxFileBytes:
		sc.bad = &finding{code: codeLimit, start: sc.here(), end: sc.here(),
			message: fmt.Sprintf("the file has %d bytes, more than %d", len(src), MaxFileBytes),
			fix:     splitFix}
	case strings.HasSuffix(name, ".json"):
		sc.json()
	default:
		sc.native()
	}
	if f := sc.bad; f != nil {
		s.errorf(f.code, place{rng: hcl.Range{Filename: name, Start: f.start, End: f.end}}, f.fix, "%s", f.message)
	}
	return sc.braces
}

// here is the place of the next byte. Columns count characters, as hcl does
// for all but combined ones.
func (s *scanner) here() hcl.Pos { return s.placeOf(s.i) }

func (s *scanner) placeOf(i int) hcl.Pos {
	return hcl.Pos{Line: s.line, Column: 1 + utf8.RuneCount(s.src[s.lineFrom:min(i, len(s.src))]), Byte: i}
}

func (s *scanner) refuse(from, to int, code, fix, format string, args ...any) {
	if s.bad == nil {
		s.bad = &finding{code: code, fix: fix, message: fmt.Sprintf(format, args...), start: s.placeOf(from), end: s.placeOf(to)}
	}
}

func (s *scanner) newline() {
	s.line++
	s.lineFrom = s.i
}

func (s *scanner) peek(n int) byte {
	if s.i+n < len(s.src) {
		return s.src[s.i+n]
	}
	return 0
}

func (s *scanner) native() {
	if bytes.HasPrefix(s.src, []byte("\xef\xbb\xbf")) {
		s.refuse(0, 1, codeSyntax, "Save it as UTF-8 without a byte order mark.", "the file starts with a byte order mark")
	}
	for s.bad == nil && s.i < len(s.src) {
		switch c := s.src[s.i]; {
		case c == '\n':
			s.i++
			s.newline()
		case c == ' ' || c == '\t' || c == '\r':
			s.i++
		case c == '#' || c == '/' && s.peek(1) == '/':
			s.skipLine()
		case c == '/' && s.peek(1) == '*':
			s.comment()
		case c == '"':
			s.quoted()
		case c == '<' && s.peek(1) == '<':
			s.heredoc()
		case strings.IndexByte("([{", c) >= 0:
			s.push(c)
		case strings.IndexByte(")]}", c) >= 0:
			s.pop(c)
		default:
			s.sign(c)
		}
	}
	s.unclosed()
}

func (s *scanner) unclosed() {
	if s.bad == nil && len(s.open) > 0 {
		last := len(s.open) - 1
		at := s.openAt[last]
		end := at
		end.Column++
		s.bad = &finding{code: codeSyntax, start: at, end: end,
			message: fmt.Sprintf("%q is never closed", s.open[last]), fix: fmt.Sprintf("Add the missing %q.", closing(s.open[last]))}
	}
}

func closing(open byte) byte {
	switch open {
	case '(':
		return ')'
	case '[':
		return ']'
	}
	return '}'
}

func (s *scanner) token() {
	if s.tokens++; s.tokens > MaxTokens {
		s.refuse(s.i, s.i+1, codeLimit, splitFix, "the file has more than %d names and values", MaxTokens)
	}
}

func (s *scanner) push(c byte) {
	s.token()
	if len(s.open) >= MaxDepth {
		s.refuse(s.i, s.i+1, codeLimit, "Nothing in the language nests deeper than 5.", "brackets are nested more than %d deep", MaxDepth)
		return
	}
	if c == '{' {
		s.braces++
	}
	s.open = append(s.open, c)
	s.openAt = append(s.openAt, s.here())
	s.i++
}

func (s *scanner) pop(c byte) {
	s.token()
	if len(s.open) == 0 {
		s.refuse(s.i, s.i+1, codeSyntax, "Remove it, or add the opening one.", "%q closes nothing", c)
		return
	}
	last := len(s.open) - 1
	if want := closing(s.open[last]); want != c {
		s.refuse(s.i, s.i+1, codeSyntax, fmt.Sprintf("Close it with %q first.", want), "%q stands where %q of line %d is still open", c, s.open[last], s.openAt[last].Line)
		return
	}
	// Judged when it closes, so that deep nesting is named as such first.
	if c == ')' {
		s.bad = &finding{code: codeExpr, fix: "Write the plain value.", message: "parentheses and function calls are not part of the language",
			start: s.openAt[last], end: s.placeOf(s.i + 1)}
	}
	s.open, s.openAt = s.open[:last], s.openAt[:last]
	s.i++
}

func (s *scanner) skipLine() {
	if n := bytes.IndexByte(s.src[s.i:], '\n'); n >= 0 {
		s.i += n
		return
	}
	s.i = len(s.src)
}

func (s *scanner) comment() {
	n := bytes.Index(s.src[s.i+2:], []byte("*/"))
	if n < 0 {
		s.refuse(s.i, s.i+2, codeSyntax, "Add */ where the comment ends.", "the comment is never closed")
		return
	}
	for end := s.i + 2 + n + 2; s.i < end; {
		s.i++
		if s.src[s.i-1] == '\n' {
			s.newline()
		}
	}
}

// sign is a name, a number, or punctuation.
func (s *scanner) sign(c byte) {
	s.token()
	start := s.i
	word := func(c byte) bool {
		return c == '_' || c == '-' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= 0x80
	}
	switch {
	case c == '-' && s.peek(1) >= '0' && s.peek(1) <= '9':
		s.i += 2
	case c != '-' && word(c):
		for s.i < len(s.src) && word(s.src[s.i]) {
			s.i++
		}
		if !utf8.Valid(s.src[start:s.i]) {
			s.refuse(start, s.i, codeSyntax, "Save the file as UTF-8.", "the text is not UTF-8")
		}
	case c == '=' && s.peek(1) != '=' && s.peek(1) != '>', c == ',', c == '.', c == ':':
		s.i++
	case c == '\'' || c == '`':
		s.refuse(s.i, s.i+1, codeSyntax, `Write text between double quotes: "text".`, "%q does not begin a text", c)
	case c == ';':
		s.refuse(s.i, s.i+1, codeSyntax, "One argument a line.", "%q separates nothing", c)
	case c < ' ' || c == 0x7f:
		s.refuse(s.i, s.i+1, codeSyntax, "Remove it.", "a control character (%#02x) stands in the text", c)
	default:
		s.refuse(s.i, s.i+1, codeExpr, "Write the plain value; text goes between double quotes.", "%q: there are no operators in the language", c)
	}
}

// quoted is a string on one line.
func (s *scanner) quoted() {
	s.token()
	start := s.i
	for s.i++; s.i < len(s.src) && s.bad == nil; s.i++ {
		switch c := s.src[s.i]; {
		case c == '"':
			s.i++
			s.text(start, s.i)
			return
		case c == '\n':
			s.refuse(start, s.i, codeSyntax, `Add the closing ", or write \n where the text goes on in a new line.`, "the text is not closed on its line")
		case c < ' ' && c != '\t' && c != '\r' || c == 0x7f:
			s.refuse(s.i, s.i+1, codeString, fmt.Sprintf(`Write \u%04x where it is meant.`, c), "a control character (%#02x) stands in the text", c)
		case c == '\\':
			s.escape()
		case c == '$' || c == '%':
			s.template()
		}
	}
	s.refuse(start, s.i, codeSyntax, `Add the closing ".`, "the text is not closed")
}

func (s *scanner) text(from, to int) {
	switch {
	case to-from > MaxStringBytes:
		s.refuse(from, to, codeLimit, "", "the text has %d bytes, more than %d", to-from, MaxStringBytes)
	case !utf8.Valid(s.src[from:to]):
		s.refuse(from, to, codeSyntax, "Save the file as UTF-8.", "the text is not UTF-8")
	}
}

// escape is at a backslash and leaves the index on the escape's last byte.
func (s *scanner) escape() {
	start, c, digits := s.i, s.peek(1), 0
	switch c {
	case 'n', 'r', 't', '"', '\\':
	case 'u':
		digits = 4
	case 'U':
		digits = 8
	default:
		s.refuse(start, start+2, codeString, fmt.Sprintf(`Write a backslash twice: "\\%s".`, shownByte(c)), `"\%s" is not an escape in HCL`, shownByte(c))
		return
	}
	s.i++
	for range digits {
		if strings.IndexByte("0123456789abcdefABCDEF", s.peek(1)) < 0 || s.peek(1) == 0 {
			s.refuse(start, s.i+1, codeString, fmt.Sprintf("%d hexadecimal digits follow it.", digits), `"\%c" is cut short`, c)
			return
		}
		s.i++
	}
}

func shownByte(c byte) string {
	if c > ' ' && c < 0x7f {
		return string(rune(c))
	}
	return "?"
}

// template refuses "${" and "%{", and steps over their escapes "$${" and "%%{".
func (s *scanner) template() {
	c := s.src[s.i]
	if s.peek(1) == c && s.peek(2) == '{' {
		s.i += 2
		return
	}
	if s.peek(1) != '{' {
		return
	}
	s.refuse(s.i, s.i+2, codeString, fmt.Sprintf(`Double the %c where the two characters are meant: "%c%c{".`, c, c, c),
		`"%c{" begins a template, and the language has none`, c)
}

// heredoc is a text of several lines: <<EOT … EOT.
func (s *scanner) heredoc() {
	s.token()
	start := s.placeOf(s.i)
	from := s.i
	s.i += 2
	if s.peek(0) == '-' {
		s.i++
	}
	mark := s.i
	for s.i < len(s.src) && (s.src[s.i] == '_' || s.src[s.i] >= 'a' && s.src[s.i] <= 'z' || s.src[s.i] >= 'A' && s.src[s.i] <= 'Z') {
		s.i++
	}
	word := s.src[mark:s.i]
	if s.peek(0) == '\r' {
		s.i++
	}
	if len(word) == 0 || s.peek(0) != '\n' {
		s.refuse(from, s.i, codeSyntax, "Write <<EOT, the lines, and EOT on a line of its own; the word has letters only.", "the mark of a text of several lines is malformed")
		return
	}
	s.i++
	s.newline()
	for body := s.i; s.i < len(s.src) && s.bad == nil; {
		if s.heredocLine(word) {
			return
		}
		if s.i-body > MaxHeredocBytes {
			s.bad = &finding{code: codeLimit, message: fmt.Sprintf("the text of several lines has more than %d bytes", MaxHeredocBytes), start: start, end: start}
		}
	}
	if s.bad == nil {
		s.bad = &finding{code: codeSyntax, message: fmt.Sprintf("the text of several lines is never closed: no line is just %s", word),
			fix: fmt.Sprintf("Put %s on a line of its own.", word), start: start, end: start}
	}
}

// heredocLine eats one line and says whether it was the closing one.
func (s *scanner) heredocLine(word []byte) bool {
	from := s.i
	for s.i < len(s.src) && s.src[s.i] != '\n' && s.bad == nil {
		if c := s.src[s.i]; c == '$' || c == '%' {
			s.template()
		}
		s.i++
	}
	if s.bad != nil {
		return false
	}
	if bytes.Equal(bytes.TrimSpace(s.src[from:s.i]), word) {
		return true
	}
	s.text(from, s.i)
	if s.i < len(s.src) {
		s.i++
		s.newline()
	}
	return false
}

// json counts the depth of JSON; its syntax is the JSON parser's to judge.
func (s *scanner) json() {
	for inString := false; s.bad == nil && s.i < len(s.src); s.i++ {
		c := s.src[s.i]
		switch {
		case c == '\n':
			s.line++
			s.lineFrom = s.i + 1
		case inString && c == '\\':
			s.i++
		case c == '"':
			inString = !inString
			s.token()
		case inString:
		case c == '{' || c == '[':
			s.push(c)
			s.i--
		case (c == '}' || c == ']') && len(s.open) > 0:
			s.open, s.openAt = s.open[:len(s.open)-1], s.openAt[:len(s.openAt)-1]
			s.token()
		case c == ',' || c == ':':
			s.token()
		}
	}
}
