//go:build e2e

package suite

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kerege/kerege/e2e/lab"
	"github.com/kerege/kerege/e2e/town"
)

// docs/operations.md, typed as it says: a server is backed up while it runs, its host
// is lost under load, and another host with another address takes its place. The
// root stays, no host joins again, and no call fails.
func TestAServerIsRestoredElsewhere(t *testing.T) {
	ctx, w, text := pair(t, noAdmin)
	web := w.Hosts["web"]
	must(t, web.WaitFor(ctx, api+"/", 200, 10*time.Second))
	got, err := web.Get(ctx, api+"/admin/users")
	prefixed(t, got, "403 ", err)
	p := &runbook{t: t, w: w, blocks: blocksOf(t, "../../docs/operations.md")}
	p.console(ctx, "server", "tar")
	first := p.console(ctx, "server", "kerege ca status")
	before := files(t, ctx, w.Server)
	p.log("envoy", denied(t, ctx, w))
	p.log("server", w.ServerProc.Tail(1<<20))
	p.filesAreNamed(before)
	root, _ := w.Ask(ctx, "ca", "root")
	serials := map[string]string{}
	for name, h := range w.Hosts {
		serials[name], err = h.Serial(ctx)
		must(t, err)
	}
	r, err := web.LoadDuring(ctx, api+"/", 50, 38*time.Second, func() error {
		archive := filepath.Join(w.Server.Dir, "kerege-server.tar.gz")
		w.ServerProc.Kill()
		if err := w.Server.Unplug(); err != nil {
			return err
		}
		other, err := w.Lab.Host("server2")
		if err != nil {
			return err
		}
		w.Server, p.archive = other, archive
		p.console(ctx, "restore", "mkdir")
		if err := w.StartServer(ctx, text); err != nil {
			return err
		}
		for _, h := range w.Hosts {
			h.Agent.KillAlone()
			if err := h.StartAgent(ctx); err != nil { // its retry_join has the new address
				return err
			}
		}
		return lab.Until(ctx, 36*time.Second, "every host to be back, with new certificates", func() error {
			if out, code := w.Ask(ctx, "status"); code != 0 || !strings.Contains(out, "3 hosts in the mesh") {
				return fmt.Errorf("exit %d: %s", code, out)
			}
			for name, h := range w.Hosts {
				if now, err := h.Serial(ctx); err != nil || now == serials[name] {
					return fmt.Errorf("%s still shows %s: %v", name, now, err)
				}
			}
			return nil
		})
	})
	must(t, err)
	none(t, "the server's host is lost and another takes its place", r)
	if again := p.console(ctx, "server", "kerege ca status"); again[0] != first[0] {
		t.Errorf("the CA is another one: it was\n%s\nand is\n%s", first[0], again[0])
	}
	if now, _ := w.Ask(ctx, "ca", "root"); now != root {
		t.Error("the root is another one")
	}
	p.console(ctx, "server", "kerege version")
	t.Run("metrics of a strict service's own port", func(t *testing.T) { ownMetrics(t, ctx, w, text, p.mesh()) })
	if len(p.blocks) > 0 {
		t.Errorf("the page's blocks were not all run: %v", p.blocks)
	}
}

// runbook follows the blocks of docs/operations.md.
type runbook struct {
	t       *testing.T
	w       *town.Town
	blocks  []block
	archive string
}

func (p *runbook) take(info string) block {
	p.t.Helper()
	at := slices.IndexFunc(p.blocks, func(b block) bool { return b.info == info })
	if at < 0 {
		p.t.Fatalf("operations.md has no more blocks %q", info)
	}
	b := p.blocks[at]
	p.blocks = slices.Delete(p.blocks, at, at+1)
	return b
}

func (p *runbook) mesh() string { return p.take("hcl").text }

// console runs the page's next block of a place, which must begin as said, and gives
// what each of its commands printed.
func (p *runbook) console(ctx context.Context, where, begins string) (printed []string) {
	p.t.Helper()
	b := p.take("console " + where)
	if !strings.HasPrefix(b.text, "$ "+begins) {
		p.t.Fatalf("operations.md:%d goes on with %q, and the test with %q", b.line, b.text, begins)
	}
	dir := p.w.Server.Dir
	if p.archive == "" {
		p.archive = dir + "/kerege-server.tar.gz"
	}
	names := strings.NewReplacer("/var/lib/kerege/server", dir+"/data", "/root/kerege-server.tar.gz", p.archive)
	for _, part := range strings.Split("\n"+b.text, "\n$ ")[1:] {
		command, want, _ := strings.Cut(part, "\n")
		argv := strings.Fields(names.Replace(command))
		var out string
		var code int
		if argv[0] == "kerege" {
			out, code = p.w.Ask(ctx, argv[1:]...)
		} else {
			out, code = p.w.Server.Combined(ctx, lab.Spec{Args: argv})
		}
		if code != 0 || !pattern(want).MatchString(out) {
			p.t.Errorf("operations.md:%d: `%s` exits %d and prints\n%s\nthe page says\n%s", b.line, command, code, out, want)
		}
		printed = append(printed, out)
	}
	return printed
}

// log holds what a program wrote against the page.
func (p *runbook) log(whose, wrote string) {
	p.t.Helper()
	if b := p.take("text " + whose); !pattern(b.text).MatchString(wrote) {
		p.t.Errorf("operations.md:%d: the log of the %s says\n%s\nthe page says\n%s", b.line, whose, wrote, b.text)
	}
}

// files are those of a server's data_dir.
func files(t *testing.T, ctx context.Context, h *lab.Host) []string {
	t.Helper()
	out, err := h.Output(ctx, lab.Spec{Args: []string{"find", h.Dir + "/data", "-type", "f", "-printf", "%P %m\n"}})
	must(t, err)
	return strings.Split(strings.TrimSpace(out), "\n")
}

// filesAreNamed: everything in data_dir has a row in the page, and mode 0600.
func (p *runbook) filesAreNamed(list []string) {
	p.t.Helper()
	text := readPage(p.t)
	for _, f := range list {
		name, mode, _ := strings.Cut(f, " ")
		folder, _, _ := strings.Cut(name, "/")
		if !strings.Contains(text, "`"+name+"`") && !strings.Contains(text, "`"+folder+"/`") {
			p.t.Errorf("operations.md does not say what %s is", name)
		}
		if mode != "600" {
			p.t.Errorf("%s has mode %s", name, mode)
		}
	}
}

const noAdmin = `intention "api" {
  allow { from = ["web"] }

  deny {
    name        = "no-admin"
    from        = ["web"]
    path_prefix = "/admin"
  }
}
`

// denied is what api's Envoys wrote of the call that one of them refused.
func denied(t *testing.T, ctx context.Context, w *town.Town) (wrote string) {
	t.Helper()
	must(t, lab.Until(ctx, 5*time.Second, "the refusal in the log", func() error {
		if wrote = w.Hosts["api1"].Envoy.Tail(1<<20) + w.Hosts["api2"].Envoy.Tail(1<<20); !strings.Contains(wrote, "call denied") {
			return fmt.Errorf("the logs say %s", wrote)
		}
		return nil
	}))
	return wrote
}

// ownMetrics scrapes from outside the mesh, in both ways of the page.
func ownMetrics(t *testing.T, ctx context.Context, w *town.Town, text, page string) {
	api1 := w.Hosts["api1"]
	_, err := api1.Start(lab.Spec{Name: "metrics", UID: town.UIDApp, Args: []string{w.App, "serve", "-name", "api", "-listen", ":9102"}})
	must(t, err)
	scrape := func(port int, path string) string {
		out, _ := w.Server.Combined(ctx, lab.Spec{Args: []string{"curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "3",
			"http://" + api1.IP.String() + ":" + strconv.Itoa(port) + path}})
		return out
	}
	must(t, lab.Until(ctx, 5*time.Second, "its second port", func() error {
		if got := scrape(9102, "/metrics"); got != "200" {
			return fmt.Errorf("it answers %s", got)
		}
		return nil
	}))
	if got := scrape(8080, "/metrics"); got != "000" {
		t.Errorf("the strict port answers %s to a caller outside the mesh", got)
	}
	must(t, w.Apply(ctx, merged(t, text, page)))
	for path, want := range map[string]string{"/metrics": "200", "/": "403"} {
		if got := scrape(8080, path); got != want {
			t.Errorf("%s answers %s to a caller outside the mesh, not %s", path, got, want)
		}
	}
	must(t, w.Hosts["web"].WaitFor(ctx, api+"/", 200, 5*time.Second))
}

// merged is the mesh with the page's service block in its own, and the page's intention.
func merged(t *testing.T, text, page string) string {
	t.Helper()
	const service = "service \"api\" {\n"
	body, found := strings.CutPrefix(page, service)
	lines, intention, ends := strings.Cut(body, "}\n")
	if !found || !ends || !strings.Contains(text, noAdmin) || !strings.Contains(text, service) {
		t.Fatalf("the page's block cannot be laid over the mesh:\n%s", page)
	}
	return strings.Replace(strings.Replace(text, noAdmin, intention, 1), service, service+lines, 1)
}

func readPage(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../../docs/operations.md")
	must(t, err)
	return string(text)
}
