package config

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2"
)

// Severity is how bad a finding is.
type Severity string

const (
	Error   Severity = "error"
	Warning Severity = "warning"
)

// Diagnostic is one finding about a user's text.
type Diagnostic struct {
	Severity Severity `json:"severity"`
	Code     string   `json:"code"` // KRG1xxx, listed in Codes
	Message  string   `json:"message"`
	Position
	EndLine   int       `json:"end_line"`
	EndColumn int       `json:"end_column"`
	Source    string    `json:"source,omitempty"` // the line, without its end
	In        string    `json:"in,omitempty"`     // route "api", rule "checkout"
	Fix       string    `json:"fix,omitempty"`
	Related   []Related `json:"related,omitempty"`
}

// Related is another place that a finding speaks of.
type Related struct {
	Message string `json:"message"`
	Position
	Source string `json:"source,omitempty"`
}

// Diagnostics are findings, sorted by place once Load returns them.
type Diagnostics []Diagnostic

// HasErrors says whether any of them is an error.
func (d Diagnostics) HasErrors() bool {
	return slices.ContainsFunc(d, func(x Diagnostic) bool { return x.Severity == Error })
}

// Errors returns those that are errors.
func (d Diagnostics) Errors() Diagnostics { return d.only(Error) }

// Warnings returns those that are warnings.
func (d Diagnostics) Warnings() Diagnostics { return d.only(Warning) }

func (d Diagnostics) only(s Severity) Diagnostics {
	var out Diagnostics
	for _, x := range d {
		if x.Severity == s {
			out = append(out, x)
		}
	}
	return out
}

// Error is the first error on one line, with the number of the others; ""
// when there is none.
func (d Diagnostics) Error() string {
	errs := d.Errors()
	if len(errs) == 0 {
		return ""
	}
	e := errs[0]
	s := fmt.Sprintf("%s: %s (%s)", e.Position, printable(e.Message), e.Code)
	if n := len(errs) - 1; n > 0 {
		s += fmt.Sprintf(", and %d more", n)
	}
	return s
}

// Err is the diagnostics as an error when any of them is one, else nil.
func (d Diagnostics) Err() error {
	if !d.HasErrors() {
		return nil
	}
	return d
}

func (d Diagnostics) sort() {
	slices.SortStableFunc(d, func(a, b Diagnostic) int {
		if c := strings.Compare(a.File, b.File); c != 0 {
			return c
		}
		if a.Line != b.Line {
			return a.Line - b.Line
		}
		if a.Column != b.Column {
			return a.Column - b.Column
		}
		return strings.Compare(a.Code+a.Message, b.Code+b.Message)
	})
}

// maxDiagnostics bounds what one load reports: after these nobody reads on.
const maxDiagnostics = 200

// sink collects diagnostics and knows the texts they point into.
type sink struct {
	diags Diagnostics
	files map[string][]byte
	lines map[string][]int // offsets of line starts, made when first asked for
	more  int              // dropped beyond maxDiagnostics
}

func newSink(files map[string][]byte) *sink {
	return &sink{files: files, lines: map[string][]int{}}
}

// place is where a finding is and what surrounds it.
type place struct {
	rng hcl.Range
	in  string
}

func (s *sink) add(sev Severity, code string, p place, fix, format string, args ...any) *Diagnostic {
	if len(s.diags) >= maxDiagnostics && sev == Error {
		s.more++
		return &Diagnostic{}
	}
	s.diags = append(s.diags, Diagnostic{
		Severity: sev, Code: code, Message: fmt.Sprintf(format, args...), Fix: fix, In: p.in,
		Position: at(p.rng), EndLine: p.rng.End.Line, EndColumn: p.rng.End.Column,
		Source: s.line(p.rng.Filename, p.rng.Start.Line),
	})
	return &s.diags[len(s.diags)-1]
}

func (s *sink) errorf(code string, p place, fix, format string, args ...any) *Diagnostic {
	return s.add(Error, code, p, fix, format, args...)
}

func (s *sink) warnf(code string, p place, fix, format string, args ...any) *Diagnostic {
	return s.add(Warning, code, p, fix, format, args...)
}

func (s *sink) relate(d *Diagnostic, rng hcl.Range, message string) {
	d.Related = append(d.Related, Related{Message: message, Position: at(rng), Source: s.line(rng.Filename, rng.Start.Line)})
}

// line returns the text of a line. Its index is made once for a file.
func (s *sink) line(file string, n int) string {
	src, ok := s.files[file]
	if !ok || n < 1 {
		return ""
	}
	starts := s.lines[file]
	if starts == nil {
		starts = []int{0}
		for i, c := range src {
			if c == '\n' {
				starts = append(starts, i+1)
			}
		}
		s.lines[file] = starts
	}
	if n > len(starts) {
		return ""
	}
	end := len(src)
	if n < len(starts) {
		end = starts[n] - 1
	}
	text := src[starts[n-1]:end]
	if len(text) > maxLineShown {
		text = text[:maxLineShown]
	}
	shown := strings.ToValidUTF8(strings.TrimSuffix(string(text), "\r"), "\uFFFD")
	return secretValue.ReplaceAllString(shown, "${1}[redacted]")
}

// secretValue finds the value of a secret argument in a line, so that a
// diagnostic about its line does not print it.
var secretValue = regexp.MustCompile(`(\b(?:token|secret|password)"?\s*[=:]\s*).*`)

// maxLineShown bounds a source line kept in a diagnostic.
const maxLineShown = 4096

func (s *sink) done() Diagnostics {
	s.diags.sort()
	if s.more > 0 && len(s.diags) > 0 {
		last := s.diags[len(s.diags)-1]
		last.Message, last.Fix, last.Related = fmt.Sprintf("%d more errors are not shown", s.more), "Correct those above first.", nil
		last.Severity, last.Code = Error, codeLimit
		s.diags = append(s.diags, last)
	}
	return s.diags
}
