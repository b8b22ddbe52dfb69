package config

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/kerege/kerege/mesh"
)

var update = flag.Bool("update", false, "write goldens and the generated reference")

// golden compares with a file, or writes it.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	if *update {
		if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s is stale: go test ./config -update, and look at the difference\n%s", name, firstDifference(want, got))
	}
}

func firstDifference(want, got []byte) string {
	a, b := strings.Split(string(want), "\n"), strings.Split(string(got), "\n")
	for i := range min(len(a), len(b)) {
		if a[i] != b[i] {
			return "want " + a[i] + "\ngot  " + b[i]
		}
	}
	return "one is longer"
}

func TestGood(t *testing.T) {
	files, _ := filepath.Glob("testdata/good/*.hcl")
	if len(files) < 2 {
		t.Fatal("no files")
	}
	for _, name := range files {
		m, diags := Load(name)
		if len(diags) > 0 || m == nil {
			t.Fatalf("%s:\n%s", name, rendered(diags))
		}
		src, _ := os.ReadFile(name)
		if formatted := Format(name, src); !bytes.Equal(formatted, Format(name, formatted)) {
			t.Errorf("%s: formatting twice is not formatting once", name)
		}
		out, err := json.MarshalIndent(m.Part(), "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		golden(t, strings.TrimSuffix(name, ".hcl")+".golden", append(out, '\n'))
	}
}

// TestJSONIsTheSame holds the JSON syntax to the same result, places apart.
func TestJSONIsTheSame(t *testing.T) {
	native, d1 := Load("testdata/good/twin.hcl")
	other, d2 := Load("testdata/good/twin.json")
	if len(d1)+len(d2) > 0 {
		t.Fatalf("%s%s", rendered(d1), rendered(d2))
	}
	a, b := placeless(t, native), placeless(t, other)
	if a != b {
		t.Errorf("native and JSON differ: %s", firstDifference([]byte(a), []byte(b)))
	}
	if native.Hash == other.Hash {
		t.Error("two texts have one hash")
	}
}

func placeless(t *testing.T, m *Mesh) string {
	t.Helper()
	out, err := json.MarshalIndent(m.Part(), "", " ")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(out), "\n")
	return strings.Join(slices.DeleteFunc(lines, func(l string) bool {
		l = strings.TrimSpace(l)
		return strings.HasPrefix(l, `"File"`) || strings.HasPrefix(l, `"Line"`) || strings.HasPrefix(l, `"Column"`)
	}), "\n")
}

// TestOrderIsNothing splits a text over files named in both orders.
func TestOrderIsNothing(t *testing.T) {
	src, err := os.ReadFile("testdata/good/twin.hcl")
	if err != nil {
		t.Fatal(err)
	}
	head, tail, _ := strings.Cut(string(src), `route "api"`)
	tail = `route "api"` + tail
	a, d1 := LoadBytes(map[string][]byte{"a.hcl": []byte(head), "b.hcl": []byte(tail)})
	b, d2 := LoadBytes(map[string][]byte{"a.hcl": []byte(tail), "b.hcl": []byte(head)})
	if len(d1)+len(d2) > 0 {
		t.Fatalf("%s%s", rendered(d1), rendered(d2))
	}
	if x, y := placeless(t, a), placeless(t, b); x != y {
		t.Error(firstDifference([]byte(x), []byte(y)))
	}
	again, _ := LoadBytes(map[string][]byte{"b.hcl": []byte(tail), "a.hcl": []byte(head)})
	if !reflect.DeepEqual(a.Part(), again.Part()) || a.Hash != again.Hash {
		t.Error("the same files give another mesh")
	}
}

func TestWeightsAreResolved(t *testing.T) {
	m, diags := Load("testdata/good/all.hcl")
	if len(diags) > 0 {
		t.Fatal(rendered(diags))
	}
	var got []uint32
	for _, to := range m.Routes[0].Rules[0].To {
		got = append(got, *to.Weight)
	}
	if !slices.Equal(got, []uint32{3333, 1, 6666}) {
		t.Errorf("weights are %v", got)
	}
	if to := *m.Defaults[0].Timeout; to != mesh.None {
		t.Errorf("none is %v", to)
	}
}

func TestUnsupported(t *testing.T) {
	m, diags := Load("../examples/language/language.hcl")
	if len(diags) > 0 {
		t.Fatal(rendered(diags))
	}
	var got []string
	for _, d := range m.Unsupported {
		if d.Code != codeLater || d.Line == 0 || d.Source == "" {
			t.Errorf("no place: %+v", d)
		}
		got = append(got, strings.TrimSuffix(d.Message, " is not supported yet"))
	}
	want := strings.Fields("health locality failover mirror fault cors rate_limit when shadow jwt authorizer quota gateway external telemetry")
	if !slices.Equal(got, want) {
		t.Errorf("got  %v\nwant %v", got, want)
	}
	for _, name := range []string{"06-gateway-tls-files", "09-rate-limit-per-tenant", "10-failover-datacenter", "11-tcp-sni", "05-external-database"} {
		if m, _ := Load("../examples/tasks/" + name + ".hcl"); m == nil || len(m.Unsupported) == 0 {
			t.Errorf("%s names nothing as unsupported", name)
		}
	}
	for _, name := range []string{"01-canary-by-header", "02-canary-by-weight-nomad", "03-retry-one-route", "04-mtls-migration", "07-path-rewrite", "08-allow-get-from-two", "12-two-ports"} {
		if m, _ := Load("../examples/tasks/" + name + ".hcl"); m == nil || len(m.Unsupported) != 0 {
			t.Errorf("%s is not wholly supported", name)
		}
	}
}

// A right for a service that is not there is warned of, with the name that is
// nearly it; without the registries only the latter is, and the others are listed.
func TestCatalogWarningsOfIntentions(t *testing.T) {
	m, diags := LoadBytes(map[string][]byte{"a.hcl": []byte(`service "orders" {}
intention "ordres" {
  allow { from = ["wbe", "web", "payments", "*"] }
}
`)})
	if diags.HasErrors() {
		t.Fatal(diags)
	}
	got := CatalogWarnings(m, []mesh.Instance{{Service: "web"}})
	if len(got) != 3 || got[0].Position.Line != 2 || !strings.Contains(got[0].Fix, `"orders"`) || got[1].Position.Line != 3 || !strings.Contains(got[1].Fix, `"web"`) ||
		!strings.Contains(got[2].Message, `"payments"`) || !strings.Contains(got[2].Fix, `service "payments" {}`) || got[2].Severity != Warning {
		t.Errorf("got %v", got)
	}
	slips, unknown := Slips(m)
	if len(slips) != 1 || !strings.Contains(slips[0].Fix, `"orders"`) || !slices.Equal(unknown, []mesh.ServiceName{"payments", "wbe", "web"}) {
		t.Errorf("slips %v, unknown %v", slips, unknown)
	}
}

func TestSyntax(t *testing.T) {
	for text, bad := range map[string]bool{"service \"a\" {\n  nonsense = 1\n}\n": false, "service \"a\" {\n": true, "a = 1 }\n": true} {
		if got := Syntax("a.hcl", []byte(text)); got.HasErrors() != bad {
			t.Errorf("%q: %v", text, got)
		}
	}
}

func TestCatalogWarnings(t *testing.T) {
	m, diags := Load("../examples/tasks/02-canary-by-weight-nomad.hcl")
	if len(diags) > 0 {
		t.Fatal(rendered(diags))
	}
	one := []mesh.Instance{{Service: "api", ID: "1", Tags: []string{"stable"}}}
	got := CatalogWarnings(m, one)
	if len(got) != 1 || got[0].Code != codeNoMatch || got[0].Severity != Warning || got[0].Line != 4 {
		t.Errorf("got\n%s", rendered(got))
	}
	if got := SubsetWarnings(m, append(one, mesh.Instance{Service: "api", ID: "2", Tags: []string{"canary"}})); len(got) != 0 {
		t.Errorf("got\n%s", rendered(got))
	}
	none := CatalogWarnings(m, []mesh.Instance{{Service: "apj"}})
	if len(none) != 2 || none[0].Code != codeUnseen || !strings.Contains(none[0].Fix, `"apj"`) {
		t.Errorf("got\n%s", rendered(none))
	}
}

func TestUnreadableIsAnError(t *testing.T) {
	m, diags := Load(t.TempDir() + "/absent")
	if m != nil || len(diags) != 1 || diags[0].Code != codeUnread {
		t.Errorf("got\n%s", rendered(diags))
	}
	dir := t.TempDir()
	if err := os.Symlink("/nowhere", dir+"/a.hcl"); err != nil {
		t.Fatal(err)
	}
	if m, diags := Load(dir); m != nil || !strings.Contains(rendered(diags), "a.hcl: cannot be read") {
		t.Errorf("a dangling link: %s", rendered(diags))
	}
	dir = t.TempDir()
	for _, name := range []string{".a.hcl", "a.hcl~", "#a.hcl", "a.hcl.swp", "README.md"} {
		if err := os.WriteFile(dir+"/"+name, []byte("{{{"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if m, diags := Load(dir); m == nil || len(m.Sources) != 0 {
		t.Errorf("what editors leave behind was read: %s", rendered(diags))
	}
}

// TestOneBadFile holds fault B1: one error in one of many files refuses all.
func TestOneBadFile(t *testing.T) {
	files := manyFiles(50, 2)
	files["f-0007.hcl"] = append(files["f-0007.hcl"], "\nservice \"x\" {\n  protocol = \n}\n"...)
	m, diags := LoadBytes(files)
	if m != nil || len(diags) != 1 || diags[0].File != "f-0007.hcl" || diags[0].Line == 0 || diags[0].Column == 0 {
		t.Errorf("got\n%s", rendered(diags))
	}
}
