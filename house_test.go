package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/kerege/kerege/"

// imports is the table of rooms: what each may import of ours. A room that is
// not here is refused, so that a new one is a decision.
var imports = map[string][]string{
	"":                {"command"},
	"command":         {"config", "server", "agent", "agent/...", "ca", "policy", "plan", "xds", "telemetry", "mesh", "api", "api/..."},
	"config":          {"mesh"},
	"config/gen":      {"config"},
	"durable":         {},
	"mesh":            {},
	"policy":          {"mesh"},
	"plan":            {"mesh", "policy"},
	"xds":             {"mesh", "plan", "xds/delta"},
	"xds/delta":       {},
	"xds/serve":       {"xds", "xds/delta"},
	"api":             {},
	"api/kerege/v1":   {},
	"registry":        {"mesh", "durable"},
	"registry/consul": {"mesh"},
	"registry/nomad":  {"mesh"},
	"registry/file":   {"mesh", "config", "durable"},
	"ca":              {"mesh", "api/...", "durable"},
	"ca/jwt":          {"durable"},
	"agent":           {"agent/...", "mesh", "config", "telemetry", "api", "api/...", "durable"},
	"agent/identity":  {"mesh", "api/...", "agent/seal"},
	"agent/seal":      {"durable"},
	"agent/sds":       {"mesh"},
	"agent/relay":     {"xds/delta", "agent/seal"},
	"agent/envoy":     {"mesh"},
	"agent/capture":   {"durable"},
	"agent/cut":       {"mesh", "policy"},
	"agent/dns":       {},
	"server":          {"registry", "registry/...", "plan", "xds", "xds/...", "ca", "ca/jwt", "config", "telemetry", "mesh", "policy", "api", "api/...", "durable"},
	"telemetry":       {},
	"tools":           {},
}

// homes says where each third-party client lives, and nowhere else.
var homes = map[string][]string{
	"github.com/hashicorp/consul/api":         {"registry/consul"},
	"github.com/hashicorp/nomad/api":          {"registry/nomad"},
	"github.com/coreos/go-iptables":           {"agent/capture"},
	"github.com/go-jose/go-jose":              {"ca/jwt"},
	"github.com/hashicorp/hcl":                {"config"},
	"github.com/envoyproxy/go-control-plane/": {"xds", "xds/delta", "xds/serve", "agent/sds", "agent/envoy", "agent/relay", "agent/cut"},
}

// rig is what only tests, the demo and benchmarks use; it may import anything.
var rig = []string{"e2e", "bench", "demo"}

func inRig(room string) bool {
	return slices.ContainsFunc(rig, func(r string) bool { return room == r || strings.HasPrefix(room, r+"/") })
}

type source struct {
	path, room string
	file       *ast.File
	lines      int
	test       bool
}

func sources(t *testing.T) (*token.FileSet, []source) {
	t.Helper()
	set := token.NewFileSet()
	var all []source
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			if name := d.Name(); path != "." && (strings.HasPrefix(name, ".") || name == "testdata" || name == "bin" || name == "out") {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(path, ".go") {
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		f, err := parser.ParseFile(set, path, text, parser.ParseComments)
		if err != nil {
			return err
		}
		room := filepath.ToSlash(filepath.Dir(path))
		if room == "." {
			room = ""
		}
		all = append(all, source{path: path, room: room, file: f, lines: strings.Count(string(text), "\n"), test: strings.HasSuffix(path, "_test.go")})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return set, all
}

func TestRoomsImportOnlyWhatTheTableSays(t *testing.T) {
	_, all := sources(t)
	for _, s := range all {
		if s.test || inRig(s.room) {
			continue
		}
		allowed, known := imports[s.room]
		if !known {
			t.Errorf("%s: room %q is not in the table of rooms", s.path, s.room)
			continue
		}
		for _, spec := range s.file.Imports {
			path := strings.Trim(spec.Path.Value, `"`)
			ours, is := strings.CutPrefix(path, module)
			if is && !permitted(allowed, ours) {
				t.Errorf("%s: %q may not import %q", s.path, s.room, ours)
			}
			if s.room == "mesh" && strings.Contains(path, ".") {
				t.Errorf("%s: mesh imports only the standard library, not %q", s.path, path)
			}
		}
	}
}

func permitted(allowed []string, room string) bool {
	return slices.ContainsFunc(allowed, func(a string) bool {
		if below, ok := strings.CutSuffix(a, "/..."); ok {
			return strings.HasPrefix(room, below+"/")
		}
		return a == room
	})
}

func TestClientsHaveOneHome(t *testing.T) {
	_, all := sources(t)
	for _, s := range all {
		if s.test || inRig(s.room) {
			continue
		}
		for _, spec := range s.file.Imports {
			path := strings.Trim(spec.Path.Value, `"`)
			for client, rooms := range homes {
				if strings.HasPrefix(path, client) && !slices.Contains(rooms, s.room) {
					t.Errorf("%s: %s lives in %v only", s.path, client, rooms)
				}
			}
		}
	}
}

func TestPureRoomsStayPure(t *testing.T) {
	_, all := sources(t)
	impure := []string{"os", "net", "context", "net/http", "log", "github.com/hashicorp/go-hclog", "os/exec", "io/ioutil"}
	for _, s := range all {
		if s.test || !slices.Contains([]string{"mesh", "policy", "plan", "xds", "xds/delta"}, s.room) {
			continue
		}
		for _, spec := range s.file.Imports {
			if path := strings.Trim(spec.Path.Value, `"`); slices.Contains(impure, path) {
				t.Errorf("%s: a pure room imports %q", s.path, path)
			}
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok && sel.Sel.Name == "Now" {
				if x, ok := sel.X.(*ast.Ident); ok && x.Name == "time" {
					t.Errorf("%s: a pure room reads the clock", s.path)
				}
			}
			return true
		})
	}
}

func TestCeilings(t *testing.T) {
	set, all := sources(t)
	for _, s := range all {
		if strings.HasSuffix(s.path, ".pb.go") {
			continue
		}
		if s.lines > 500 {
			t.Errorf("%s has %d lines; the ceiling is 500", s.path, s.lines)
		}
		if s.test {
			continue
		}
		for _, d := range s.file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok {
				if n := set.Position(f.End()).Line - set.Position(f.Pos()).Line + 1; n > 70 {
					t.Errorf("%s: %s has %d lines; the ceiling is 70", s.path, f.Name.Name, n)
				}
			}
		}
	}
}

func TestOnlyMainExits(t *testing.T) {
	_, all := sources(t)
	for _, s := range all {
		if s.test || s.file.Name.Name == "main" {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			sel, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			x, ok := sel.X.(*ast.Ident)
			if ok && (x.Name == "os" && sel.Sel.Name == "Exit" || x.Name == "log" && strings.HasPrefix(sel.Sel.Name, "Fatal")) {
				t.Errorf("%s: only main exits the process", s.path)
			}
			return true
		})
	}
}

func TestNothingRegistersItself(t *testing.T) {
	_, all := sources(t)
	for _, s := range all {
		if strings.HasSuffix(s.path, ".pb.go") {
			continue
		}
		for _, d := range s.file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && f.Name.Name == "init" {
				t.Errorf("%s: no init functions", s.path)
			}
		}
	}
}

func TestPackagesSayTheirDuty(t *testing.T) {
	_, all := sources(t)
	documented := map[string]bool{}
	for _, s := range all {
		if !s.test {
			documented[s.room] = documented[s.room] || s.file.Doc != nil || strings.HasSuffix(s.path, ".pb.go")
		}
	}
	for room, ok := range documented {
		if !ok {
			t.Errorf("package %q has no package comment", room)
		}
	}
}
