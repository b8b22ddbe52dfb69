package config

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/kerege/kerege/mesh"
)

func TestText(t *testing.T) {
	_, diags := LoadBytes(map[string][]byte{"routes.hcl": []byte(`route "api" {
  rule "canary" {
    to "users" { weight = 60 }
    to "web" { wieght = 30 }
  }
}
`)})
	want := `error: routes.hcl:4:16: there is no argument "wieght" in a to block  [KRG1010]
       in route "api", rule "canary", to "web"
     4 |     to "web" { wieght = 30 }
       |                ^^^^^^
  fix: Did you mean "weight"?
`
	if got := rendered(diags); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	var b strings.Builder
	if err := diags.WriteText(&b, true); err != nil || !strings.Contains(b.String(), "\x1b[31m") {
		t.Errorf("no colour in %q, %v", b.String(), err)
	}
}

func TestJSON(t *testing.T) {
	_, diags := LoadBytes(map[string][]byte{"a.hcl": []byte("service \"a\" {}\nservice \"a\" {}\n")})
	out, err := json.Marshal(diags)
	if err != nil {
		t.Fatal(err)
	}
	want := `[{"severity":"error","code":"KRG1015","message":"service \"a\" is there twice","file":"a.hcl","line":2,"column":1,"end_line":2,"end_column":12,"source":"service \"a\" {}","fix":"Keep one of them, or join the two.","related":[{"message":"first here","file":"a.hcl","line":1,"column":1,"source":"service \"a\" {}"}]}]`
	if string(out) != want {
		t.Errorf("got\n%s\nwant\n%s", out, want)
	}
}

// TestHostileText looks for what would steer a terminal.
func TestHostileText(t *testing.T) {
	src := "service \"a\x1b]0;x\x07\" {}\nservice \"b\u202eb\" {}\nroute \"" + strings.Repeat("x", 3000) + "\" {}\n\tservice \"C\" {}\n"
	for _, name := range []string{"a.hcl", "\x1b[2J.hcl"} {
		_, diags := LoadBytes(map[string][]byte{name: []byte(src)})
		_, more := LoadBytes(map[string][]byte{name: []byte(src[strings.Index(src, "\n")+1:])})
		out := rendered(append(diags, more...))
		if len(diags) == 0 || len(more) < 3 || strings.ContainsAny(out, "\x1b\x07\u202e") {
			t.Errorf("got %q", out)
		}
		for _, line := range strings.Split(out, "\n") {
			if len([]rune(line)) > 260 {
				t.Errorf("a line of %d characters", len(line))
			}
		}
		if s := diags.Error(); strings.Contains(s, "\x1b") {
			t.Errorf("got %q", s)
		}
	}
}

func TestLongLineKeepsItsCaret(t *testing.T) {
	src := `intention "a" { allow { from = ["` + strings.Repeat(`x", "y`, 1) + `"] } }` + "\n"
	src = "defaults \"*\" { protocol = \"" + strings.Repeat(" ", 300) + "htp\" }\n" + src
	_, diags := LoadBytes(map[string][]byte{"a.hcl": []byte(src)})
	lines := strings.Split(rendered(diags), "\n")
	for i, l := range lines {
		if strings.Contains(l, "^") && (i == 0 || len([]rune(l)) > len([]rune(lines[i-1]))+1) {
			t.Errorf("the caret is beside its line:\n%s\n%s", lines[i-1], l)
		}
	}
}

// TestStatedDefaults holds the reference's defaults to those that mesh fills in.
func TestStatedDefaults(t *testing.T) {
	b := defaultsBlock()
	retry, outlier := b.blockNamed("retry"), b.blockNamed("outlier")
	for _, x := range []struct {
		stated string
		is     any
	}{
		{b.attrNamed("idle_timeout").def, mesh.DefaultIdleTimeout}, {retry.attrNamed("backoff").def, mesh.DefaultBackoff},
		{outlier.attrNamed("interval").def, mesh.DefaultInterval}, {outlier.attrNamed("eject").def, mesh.DefaultEject},
	} {
		if d, err := parseDuration(strings.Trim(x.stated, `"`)); err != nil || d != x.is {
			t.Errorf("%s is stated, %v is meant", x.stated, x.is)
		}
	}
	if got := meshBlock().attrNamed("trust_domain").def; got != quoted(mesh.DefaultTrustDomain) {
		t.Errorf("trust domain %s", got)
	}
	if mesh.DefaultRetryTimes != 2 || mesh.DefaultBudget != 20 || mesh.DefaultAtMost != 50 || mesh.DefaultConsecutive5xx != 5 || mesh.DefaultBalance != "least_request" {
		t.Error("a default of mesh has changed: say so in the schema")
	}
}
