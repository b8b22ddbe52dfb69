package config

import (
	"bytes"
	"fmt"
	"testing"
)

// manyFiles is a mesh of routes in files, each with a service and an intention.
func manyFiles(files, routes int) map[string][]byte {
	out := map[string][]byte{}
	for f := range files {
		var b bytes.Buffer
		for r := range routes {
			fmt.Fprintf(&b, `
service "s%[1]d-%[2]d" {
  subset "v1" { filter = "Service.Meta.version == v1" }
  subset "v2" { filter = "Service.Meta.version == v2" }
}

route "s%[1]d-%[2]d" {
  rule "canary" {
    match { path_prefix = "/v1" }
    to "s%[1]d-%[2]d.v2" { weight = 10 }
    to "s%[1]d-%[2]d.v1" {}
  }
}

intention "s%[1]d-%[2]d" {
  allow { from = ["web"] }
}
`, f, r)
		}
		out[fmt.Sprintf("f-%04d.hcl", f)] = b.Bytes()
	}
	return out
}

// BenchmarkCompile loads 10,000 routes in 100 files.
func BenchmarkCompile(b *testing.B) {
	files := manyFiles(100, 100)
	size := 0
	for _, src := range files {
		size += len(src)
	}
	b.SetBytes(int64(size))
	b.ReportAllocs()
	for b.Loop() {
		if m, diags := LoadBytes(files); m == nil || len(m.Routes) != 10_000 {
			b.Fatal(diags.Error())
		}
	}
}
