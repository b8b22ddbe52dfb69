package command

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the reference anew")

// TestReference keeps docs/reference/commands.md what the commands say of themselves.
func TestReference(t *testing.T) {
	for _, name := range []string{"KEREGE_ADDR", "KEREGE_AGENT_ADDR", "KEREGE_TOKEN_FILE", "KEREGE_CACERT"} {
		t.Setenv(name, "") // whose values are the defaults
	}
	var b strings.Builder
	b.WriteString("# Commands\n\nGenerated from the commands themselves: `go test ./command -run Reference -update`.\n\n")
	b.WriteString("Every command takes `-json`, and exits 0 when all is well, 1 on an error, 2 on changes or findings, 3 when what it asks is degraded or cannot be\nreached. A flag wins over the environment, the environment over a file, a file over the default.\n")
	for _, c := range commands() {
		fmt.Fprintf(&b, "\n## kerege %s\n\n%s.\n\n```\n%s\n```\n", c.Name, c.Synopsis, (&runner{command: c}).Help())
	}
	path := filepath.Join("..", "docs", "reference", "commands.md")
	if *update {
		if err := os.WriteFile(path, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil || string(got) != b.String() {
		t.Errorf("%s is out of date: go test ./command -run Reference -update (%v)", path, err)
	}
}

func TestEveryCommandSaysWhatItDoes(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range commands() {
		seen[c.Name] = true
		if c.Synopsis == "" || strings.HasSuffix(c.Synopsis, ".") || c.Long == "" {
			t.Errorf("%s: a synopsis without a full stop and a long text are needed", c.Name)
		}
		if !strings.Contains(c.Example, "kerege "+c.Name) {
			t.Errorf("%s: the example %q does not show it", c.Name, c.Example)
		}
		for line := range strings.Lines((&runner{command: c}).Help()) {
			if n := len([]rune(strings.TrimSpace(line))); n > 100 {
				t.Errorf("%s: a line of its help has %d columns: %s", c.Name, n, line)
			}
		}
		flags, _ := (&runner{command: c}).flags()
		if flags.Lookup("json") == nil {
			t.Errorf("%s: no -json", c.Name)
		}
		flags.VisitAll(func(f *flag.Flag) {
			if f.Usage == "" {
				t.Errorf("%s: -%s says nothing", c.Name, f.Name)
			}
		})
		// The example's own flags are real ones.
		words := strings.Fields(strings.TrimPrefix(c.Example[strings.Index(c.Example, "kerege "):], "kerege "+c.Name))
		for _, w := range words {
			if name, is := strings.CutPrefix(w, "-"); is && name != "" && name != "help" && flags.Lookup(name) == nil {
				t.Errorf("%s: the example uses -%s, which is no option", c.Name, name)
			}
		}
	}
	for _, g := range groups {
		for _, name := range g.commands {
			if !seen[name] {
				t.Errorf("the help lists %s, which is no command", name)
			}
		}
	}
}

func TestExitCodesAndErrors(t *testing.T) {
	t.Setenv("KEREGE_ADDR", "unix:///nosuch/api.sock")
	for _, c := range []struct {
		args        []string
		code        int
		out, stderr string
	}{
		{[]string{}, 0, "Usage: kerege", ""},
		{[]string{"help"}, 0, "Usage: kerege COMMAND", ""},
		{[]string{"help", "capture", "plan"}, 0, "Usage: kerege capture plan", ""},
		{[]string{"capture", "-help"}, 0, "Subcommands:", ""},
		{[]string{"nosuch"}, 1, "", `there is no command "nosuch"`},
		{[]string{"sttus"}, 1, "", "did you mean kerege status?"},
		{[]string{"capture", "plna"}, 1, "", "did you mean kerege capture plan?"},
		{[]string{"token"}, 1, "", "say which"},
		{[]string{"status", "more"}, 1, "", `takes no argument, and there is "more"`},
		{[]string{"services", "api", "-jsno"}, 1, "", "did you mean -json"},
		{[]string{"wait", "-service", "web", "-timeout", "soon"}, 1, "", "written 90s"},
		{[]string{"version", "-json"}, 0, `"version"`, ""},
		{[]string{"status", "-jsno"}, 1, "", "did you mean -json"},
		{[]string{"status"}, 3, "", "Is the server running?"},
		{[]string{"status", "-addr", "http://x"}, 1, "", "plain HTTP is never used"},
		{[]string{"validate", "/nosuch"}, 1, "", "/nosuch"},
		{[]string{"validate", "../examples/tasks/06-gateway-tls-files.hcl"}, 2, "apply refuses 1 place", "not supported yet"},
		{[]string{"validate", "../examples/tasks/08-allow-get-from-two.hcl"}, 0, "Valid", ""},
		{[]string{"explain"}, 1, "", "say who calls whom"},
	} {
		var out, errOut bytes.Buffer
		code := Run(c.args, strings.NewReader(""), &out, &errOut)
		if code != c.code || !strings.Contains(out.String(), c.out) || !strings.Contains(errOut.String()+out.String(), c.stderr) {
			t.Errorf("kerege %s: exit %d, want %d\nstdout: %s\nstderr: %s", strings.Join(c.args, " "), code, c.code, out.String(), errOut.String())
		}
	}
}

func TestFmtLeavesWhatIsNoHCL(t *testing.T) {
	dir := t.TempDir()
	broken, fine := filepath.Join(dir, "a.hcl"), filepath.Join(dir, "b.hcl")
	for file, text := range map[string]string{broken: "service \"a\" {\nprotocol=1\n", fine: "mesh {\nmtls=\"strict\"\n}\n"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var out, errOut bytes.Buffer
	code := Run([]string{"fmt", dir}, strings.NewReader(""), &out, &errOut)
	if code != 1 || out.String() != fine+"\n" || !strings.Contains(errOut.String(), "a.hcl:1:13: '{' is never closed") {
		t.Errorf("exit %d, %q, %q", code, out.String(), errOut.String())
	}
	if code := Run([]string{"fmt", "-"}, strings.NewReader("a = {"), &out, &errOut); code != 1 {
		t.Errorf("stdin: exit %d", code)
	}
}

func TestFmtStdin(t *testing.T) {
	var out, errOut bytes.Buffer
	code := Run([]string{"fmt", "-"}, strings.NewReader("service \"a\" {\nprotocol=\"http\"\n}\n"), &out, &errOut)
	if want := "service \"a\" {\n  protocol = \"http\"\n}\n"; code != 0 || out.String() != want {
		t.Errorf("exit %d, %q, %s", code, out.String(), errOut.String())
	}
}
