package config

import (
	"encoding/json"
	"path/filepath"
	"strings"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// Kind is what a file is read for.
type Kind string

const (
	KindMesh   Kind = "mesh"
	KindServer Kind = "server" // a server's settings
	KindAgent  Kind = "agent"  // an agent's settings
	KindNone   Kind = ""       // nothing in it tells
)

// Kinds says of each file that Load would read what it is for: mesh files and
// settings by the names in them, whose settings by the file's own name first. Findings are of files that
// cannot be read; what is wrong in them is for who loads them to say.
func Kinds(paths ...string) (map[string]Kind, Diagnostics) {
	s := newSink(nil)
	files := readFiles(s, paths, nil)
	out := map[string]Kind{}
	for name, src := range files {
		out[name] = kindOf(name, src)
	}
	return out, s.done()
}

func kindOf(name string, src []byte) Kind {
	schemas := []struct {
		kind   Kind
		schema *block
	}{{KindMesh, meshSchemaOnce()}, {KindServer, serverSchemaOnce()}, {KindAgent, agentSchemaOnce()}}
	best, score, tie := KindNone, 0, false
	attrs, blocks := topNames(name, src)
	for _, x := range schemas {
		hits := 0
		for _, a := range attrs {
			if x.schema.attrNamed(a) != nil {
				hits++
			}
		}
		for _, b := range blocks {
			if x.schema.blockNamed(b) != nil {
				hits++
			}
		}
		if hits > score {
			best, score, tie = x.kind, hits, false
		} else if hits == score {
			tie = true
		}
	}
	if best == KindMesh && !tie {
		return KindMesh
	}
	for _, x := range schemas[1:] { // as a directory of settings is read
		if strings.HasPrefix(filepath.Base(name), string(x.kind)) {
			return x.kind
		}
	}
	switch {
	case score == 0:
		return KindMesh
	case tie: // what a server and an agent both know
		return KindNone
	}
	return best
}

// topNames is what a file says on its outermost level, as far as it parses.
func topNames(name string, src []byte) (attrs, blocks []string) {
	s := newSink(map[string][]byte{name: src})
	prescan(s, name, src)
	if len(s.diags) > 0 {
		return nil, nil
	}
	if strings.HasSuffix(name, ".json") {
		var properties map[string]json.RawMessage
		if err := json.Unmarshal(src, &properties); err != nil {
			return nil, nil
		}
		for property, v := range properties {
			if strings.HasPrefix(string(v), "{") {
				blocks = append(blocks, property)
			} else {
				attrs = append(attrs, property)
			}
		}
		return attrs, blocks
	}
	f, _ := hclsyntax.ParseConfig(src, name, hcl.InitialPos)
	if f == nil {
		return nil, nil
	}
	body, ok := f.Body.(*hclsyntax.Body)
	if !ok {
		return nil, nil
	}
	for a := range body.Attributes {
		attrs = append(attrs, a)
	}
	for _, b := range body.Blocks {
		blocks = append(blocks, b.Type)
	}
	return attrs, blocks
}
