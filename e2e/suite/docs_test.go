//go:build e2e

package suite

import (
	"context"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/kerege/kerege/e2e/lab"
	"github.com/kerege/kerege/e2e/town"
)

// block is one fenced block of a page: ```console HOST [exit=N] [token], or HCL.
type block struct {
	info, text string
	line       int
}

func blocksOf(t *testing.T, path string) []block {
	t.Helper()
	text, err := os.ReadFile(path)
	must(t, err)
	var all []block
	var open *block
	for i, line := range strings.Split(string(text), "\n") {
		switch {
		case open == nil && strings.HasPrefix(line, "```"):
			open = &block{info: strings.TrimPrefix(line, "```"), line: i + 2}
		case open != nil && line == "```":
			all = append(all, *open)
			open = nil
		case open != nil:
			open.text += line + "\n"
		}
	}
	return all
}

// The first hour, typed as the page says.
func TestFirstHour(t *testing.T) {
	ctx, w := newTown(t, true)
	must(t, w.StartConsul(ctx))
	hosts := map[string]*town.Host{}
	for name, service := range map[string]string{"vm-12": "web", "vm-13": "api"} {
		h, err := w.AddHost(ctx, name, service, "v1")
		must(t, err)
		must(t, h.Nameserver(w.ConsulHost.IP.String()))
		must(t, h.StartProgram(ctx))
		must(t, w.Register(ctx, h))
		hosts[name] = h
	}
	must(t, hosts["vm-12"].WaitFor(ctx, "http://api.service.consul:8080/", 200, timeout))
	p := &page{t: t, w: w, hosts: hosts}
	for _, b := range blocksOf(t, "../../docs/first-hour.md") {
		switch {
		case b.info == "hcl" && p.mesh == "":
			p.mesh = b.text
			must(t, w.StartServer(ctx, p.mesh))
		case b.info == "hcl":
			p.mesh += "\n" + b.text
			must(t, w.WriteMesh(p.mesh))
		case strings.HasPrefix(b.info, "console "):
			p.console(ctx, b)
		}
	}
}

const timeout = 10_000_000_000 // 10 s

// page follows one page's blocks.
type page struct {
	t           *testing.T
	w           *town.Town
	hosts       map[string]*town.Host
	mesh, token string
	started     map[string]bool
}

// console runs a block's commands and holds what they print against the page.
func (p *page) console(ctx context.Context, b block) {
	p.t.Helper()
	words := strings.Fields(b.info)
	exit, input := 0, ""
	for _, word := range words[2:] {
		if n, is := strings.CutPrefix(word, "exit="); is {
			exit, _ = strconv.Atoi(n)
		} else if word == "token" {
			input = p.token
		}
	}
	for _, part := range strings.Split("\n"+b.text, "\n$ ")[1:] {
		command, want, _ := strings.Cut(part, "\n")
		out, code := p.run(ctx, words[1], strings.Fields(command), input)
		if code != exit {
			p.t.Errorf("first-hour.md:%d: `%s` on %s exits %d, the page says %d:\n%s", b.line, command, words[1], code, exit, out)
		}
		if !pattern(want).MatchString(out) {
			p.t.Errorf("first-hour.md:%d: `%s` on %s prints\n%s\nthe page says\n%s", b.line, command, words[1], out, want)
		}
		if strings.HasPrefix(command, "kerege token create") {
			p.token = out
		}
	}
}

// run is one command where the page says. What the page only tells of (agents,
// Envoys, the second host) is done when it is needed.
func (p *page) run(ctx context.Context, where string, argv []string, input string) (string, int) {
	p.t.Helper()
	line := strings.Join(argv[1:], " ")
	if where == "server" {
		if strings.HasPrefix(line, "services api") {
			must(p.t, p.hosts["vm-13"].BringInRunning(ctx))
		}
		for i, a := range argv {
			argv[i] = strings.ReplaceAll(a, "/etc/kerege.d", p.w.Server.Dir+"/etc")
		}
		return p.w.Ask(ctx, argv[1:]...)
	}
	h := p.hosts[where]
	switch {
	case line == "join -":
		must(p.t, h.StartAgent(ctx))
		var out string
		code := 3
		must(p.t, lab.Until(ctx, timeout, "the agent", func() error {
			if out, code = h.Combined(ctx, lab.Spec{Env: h.Env(), In: strings.NewReader(input), Args: append([]string{p.w.Kerege}, argv[1:]...)}); code == 3 {
				return fmt.Errorf("%s", out)
			}
			return nil
		}))
		return out, code
	case strings.HasPrefix(line, "wait "):
		must(p.t, h.StartEnvoy(ctx))
	}
	return h.Kerege(ctx, argv[1:]...)
}

// pattern makes a printed text, in which … stands for anything, an expression.
func pattern(text string) *regexp.Regexp {
	var lines []string
	for _, line := range strings.Split(strings.TrimSpace(text), "\n") {
		lines = append(lines, strings.ReplaceAll(regexp.QuoteMeta(strings.TrimRight(line, " ")), "…", `(?s:.*)`))
	}
	return regexp.MustCompile(`(?m)` + strings.Join(lines, `(?s:.*?)`))
}
