package config

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/kerege/kerege/mesh"
)

// Mesh is what a set of mesh files says, checked as one transaction.
type Mesh struct {
	Config     *mesh.Config // nil: no mesh block
	Defaults   []mesh.Defaults
	Services   []mesh.ServiceConfig
	Routes     []mesh.Route
	Intentions []mesh.Intention
	Instances  []mesh.Instance

	// Unsupported is what was understood and is not supported yet, with its
	// places: validate lists it, apply and the server refuse it.
	Unsupported Diagnostics
	// Sources are the files as read, by name.
	Sources map[string][]byte
	// Hash is of the names and bytes of the files, whatever their order: a
	// generation's name.
	Hash string

	places places
}

// places keeps what CatalogWarnings needs to point into the text.
type places struct {
	lines   *sink
	subsets []placed
	targets []placed
	named   []placed // by intentions
}

type placed struct {
	service mesh.ServiceName
	subset  mesh.Subset
	where   place
}

// Part is the mesh as the one part that the file source sends.
func (m *Mesh) Part() mesh.Part {
	return mesh.Part{Source: "file", Mesh: m.Config, Defaults: m.Defaults, Services: m.Services,
		Routes: m.Routes, Intentions: m.Intentions, Instances: m.Instances}
}

// schemas are built once: they are data.
var (
	meshSchemaOnce   = sync.OnceValue(meshSchema)
	serverSchemaOnce = sync.OnceValue(serverSchema)
	agentSchemaOnce  = sync.OnceValue(agentSchema)
)

// Load reads mesh files, and directories of them, as one transaction. The Mesh
// is nil when any diagnostic is an error.
func Load(paths ...string) (*Mesh, Diagnostics) {
	s := newSink(nil)
	files := readFiles(s, paths, nil)
	if len(s.diags) > 0 {
		return nil, s.done()
	}
	return LoadBytes(files)
}

// LoadBytes is Load of files that are already read, by name.
func LoadBytes(files map[string][]byte) (*Mesh, Diagnostics) {
	return loadBytes(files, map[string]*parsed{})
}

// loadBytes takes what is known of files, and adds to it.
func loadBytes(files map[string][]byte, known map[string]*parsed) (*Mesh, Diagnostics) {
	p := &parser{sink: newSink(files), elsewhere: settingsNames(), known: known}
	root := p.roots(files, meshSchemaOnce())
	m := &Mesh{Sources: files, Hash: hashOf(files)}
	b := &builder{parser: p, mesh: m, byName: map[string]*node{}}
	b.build(root)
	b.check(root)
	diags := p.done()
	if diags.HasErrors() {
		return nil, strays(files, diags)
	}
	p.later.sort()
	m.Unsupported = p.later
	m.places.lines = &sink{files: p.files, lines: p.lines}
	return m, diags
}

// roots parses all files and joins them into one root.
func (p *parser) roots(files map[string][]byte, schema *block) *node {
	root := &node{schema: schema, args: map[string]*value{}}
	names := p.scan()
	root.bad = len(names) < len(files)
	if p.known != nil {
		p.ahead(names, schema)
	}
	for _, name := range names {
		if k := p.known[name]; k != nil {
			root.blocks = append(root.blocks, k.root.blocks...)
			continue
		}
		if n := p.file(name, files[name], schema); n != nil {
			root.blocks = append(root.blocks, n.blocks...)
			root.bad = root.bad || n.bad
		} else {
			root.bad = true
		}
	}
	p.once(root)
	return root
}

func hashOf(files map[string][]byte) string {
	h := sha256.New()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		fmt.Fprintf(h, "%d %s %d ", len(name), name, len(files[name]))
		h.Write(files[name])
	}
	return hex.EncodeToString(h.Sum(nil))
}
