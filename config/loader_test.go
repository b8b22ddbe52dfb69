package config

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// What a Loader says after any edits is what is said of the files by themselves.
func TestLoaderIsLoad(t *testing.T) {
	good := manyFiles(6, 4)
	edits := map[string]func(string) string{
		"weight":    func(s string) string { return strings.Replace(s, "weight = 10", "weight = 20", 1) },
		"syntax":    func(s string) string { return strings.Replace(s, "{", "{{", 1) },
		"unknown":   func(s string) string { return strings.Replace(s, "weight", "wait", 1) },
		"subset":    func(s string) string { return strings.Replace(s, ".v2", ".v9", 1) },
		"twice":     func(s string) string { return s + s[:max(0, strings.Index(s, "route"))] },
		"elsewhere": func(s string) string { return s + "\nservice \"s0-0\" {}\n" },
		"later":     func(s string) string { return s + "\ngateway \"g\" {}\n" },
		"nothing":   func(string) string { return "" },
		"the same":  func(s string) string { return s },
	}
	names := slices.Sorted(maps.Keys(edits))
	random := rand.New(rand.NewPCG(1, 2))
	var l Loader
	loaded, refused := 0, 0
	for step := range 120 {
		files := maps.Clone(good)
		var did []string
		for range random.IntN(3) {
			file, edit := fmt.Sprintf("f-%04d.hcl", random.IntN(6)), names[random.IntN(len(names))]
			files[file] = []byte(edits[edit](string(files[file])))
			did = append(did, edit+" in "+file)
		}
		if random.IntN(4) == 0 {
			delete(files, "f-0003.hcl")
		}
		m, diags := l.LoadBytes(files)
		want, wantDiags := LoadBytes(files)
		if diags.Error() != wantDiags.Error() || !reflect.DeepEqual(diags, wantDiags) {
			t.Fatalf("step %d, %s:\n got %v\nwant %v", step, did, diags, wantDiags)
		}
		if (m == nil) != (want == nil) {
			t.Fatalf("step %d, %s: a mesh: %v, want %v", step, did, m != nil, want != nil)
		}
		if m == nil {
			refused++
			continue
		}
		loaded++
		if !reflect.DeepEqual(m.Part(), want.Part()) || m.Hash != want.Hash || !reflect.DeepEqual(m.Unsupported, want.Unsupported) {
			t.Fatalf("step %d, %s: another mesh", step, did)
		}
	}
	if loaded < 20 || refused < 20 {
		t.Fatalf("%d loaded and %d refused: the edits prove little", loaded, refused)
	}
	if _, diags := l.LoadBytes(good); len(l.files) != len(good) {
		t.Fatalf("%d of %d files are kept: %v", len(l.files), len(good), diags)
	}
}
