//go:build e2e

package systemd

import (
	"context"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kerege/kerege/e2e/lab"
	"github.com/kerege/kerege/e2e/town"
)

// block is one fenced block of a page: ```console HOST [exit=N] [token] [reboot],
// ```ini HOST PATH, or ```hcl.
type block struct {
	kind, host, text string
	words            []string
	line             int
}

// page is a page of docs that is typed, section by section.
type page struct {
	t        *testing.T
	name     string
	w        *town.Town
	root     *Root
	sections [][]block
	token    string
	reboot   func(context.Context)
	hcl      func(string)
}

func readPage(t *testing.T, name string, w *town.Town, r *Root) *page {
	t.Helper()
	text, err := os.ReadFile("../../docs/" + name)
	must(t, err)
	p := &page{t: t, name: name, w: w, root: r, sections: make([][]block, 1)}
	var open *block
	for i, line := range strings.Split(string(text), "\n") {
		last := len(p.sections) - 1
		switch {
		case open == nil && strings.HasPrefix(line, "## "):
			p.sections = append(p.sections, nil)
		case open == nil && strings.HasPrefix(line, "```"):
			words := append(strings.Fields(strings.TrimPrefix(line, "```")), "", "")
			open = &block{kind: words[0], host: words[1], words: words[2:], line: i + 2}
		case open != nil && line == "```":
			p.sections[last] = append(p.sections[last], *open)
			open = nil
		case open != nil:
			open.text += line + "\n"
		}
	}
	return p
}

// section types all of one section; 0 is what comes before the first.
func (p *page) section(ctx context.Context, n int) {
	p.t.Helper()
	for _, b := range p.sections[n] {
		switch b.kind {
		case "ini":
			must(p.t, p.root.Write(b.words[0], b.text))
		case "hcl":
			p.hcl(b.text)
		case "console":
			p.console(ctx, b)
		default:
			p.t.Errorf("%s:%d: nobody runs a block of %q", p.name, b.line, b.kind)
		}
	}
}

// console runs a block's commands and holds what they print against the page.
func (p *page) console(ctx context.Context, b block) {
	p.t.Helper()
	exit, input := 0, ""
	for _, word := range b.words {
		n, is := strings.CutPrefix(word, "exit=")
		switch {
		case is:
			exit, _ = strconv.Atoi(n)
		case word == "token":
			input = p.token
		case word == "reboot":
			p.reboot(ctx)
			return
		}
	}
	for _, part := range strings.Split("\n"+b.text, "\n$ ")[1:] {
		command, want, _ := strings.Cut(part, "\n")
		began := time.Now()
		out, code := p.run(ctx, b.host, command, input)
		if took := time.Since(began); took > 15*time.Second {
			p.t.Errorf("%s:%d: `%s` took %s: something does not end (a goroutine dump is in the journal where it is the agent)", p.name, b.line, command, took.Round(time.Millisecond))
		}
		if code != exit {
			p.t.Fatalf("%s:%d: `%s` on %s exits %d, the page says %d:\n%s", p.name, b.line, command, b.host, code, exit, out)
		}
		if strings.TrimSpace(want) == "" && strings.TrimSpace(out) != "" || !pattern(want).MatchString(out) {
			p.t.Errorf("%s:%d: `%s` on %s prints\n%s\nthe page says\n%s", p.name, b.line, command, b.host, out, want)
		}
		if strings.HasPrefix(command, "kerege token create") {
			p.token = out
		}
	}
}

func (p *page) run(ctx context.Context, host, command, input string) (string, int) {
	p.t.Helper()
	switch host {
	case "server":
		return p.w.Ask(ctx, strings.Fields(command)[1:]...)
	case p.root.Name:
		return p.root.Type(ctx, command, input)
	}
	p.t.Fatalf("%s: there is no host %q", p.name, host)
	return "", 0
}

// pattern makes a printed text, in which … stands for anything, an expression.
func pattern(text string) *regexp.Regexp {
	var lines []string
	for _, line := range strings.Split(strings.TrimSpace(text), "\n") {
		lines = append(lines, strings.ReplaceAll(regexp.QuoteMeta(strings.TrimRight(line, " ")), "…", `(?s:.*)`))
	}
	return regexp.MustCompile(`(?m)` + strings.Join(lines, `(?s:.*?)`))
}

// program is a user on the root who calls.
type program struct {
	r    *Root
	user string
}

func (p program) line(command string) string {
	return "setpriv --reuid " + p.user + " --regid " + p.user + " --clear-groups " + command
}

// get is one call: "<status> new <quoted body>".
func (p program) get(ctx context.Context, url string) string {
	out, code := p.r.Type(ctx, p.line("timeout 10 app hold -url "+url), "\n")
	if code != 0 {
		return "exit " + strconv.Itoa(code) + ": " + out
	}
	return strings.TrimSpace(out)
}

// waitFor calls until the answer begins as it should.
func (p program) waitFor(t *testing.T, ctx context.Context, url, prefix string) {
	t.Helper()
	must(t, lab.Until(ctx, 15*time.Second, url+" to answer "+prefix+" to "+p.user, func() error {
		if got := p.get(ctx, url); !strings.HasPrefix(got, prefix) {
			return errText(got)
		}
		return nil
	}))
}
