package config

import (
	"bytes"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
)

// Loader loads mesh files again and again, and parses only those anew that
// changed. It keeps what files without a finding were parsed to, for the files of
// the last load, at about sixteen bytes for each of theirs and for maxKept bytes of
// files at most. Its zero value is ready; it is for one goroutine at a time.
type Loader struct{ files map[string]*parsed }

const maxKept = 8 << 20

// parsed is a file that was found to be right, as far as one file can be.
type parsed struct {
	src    []byte
	braces int
	root   *node
}

// Load is the package's Load.
func (l *Loader) Load(paths ...string) (*Mesh, Diagnostics) {
	s := newSink(nil)
	files := readFiles(s, paths, nil)
	if len(s.diags) > 0 {
		return nil, s.done()
	}
	return l.LoadBytes(files)
}

// LoadBytes is the package's LoadBytes.
func (l *Loader) LoadBytes(files map[string][]byte) (*Mesh, Diagnostics) {
	for name, kept := range l.files {
		if src, there := files[name]; !there || !bytes.Equal(src, kept.src) {
			delete(l.files, name)
		}
	}
	if l.files == nil {
		l.files = map[string]*parsed{}
	}
	m, diags := loadBytes(files, l.files)
	total := 0
	for _, src := range files {
		total += len(src)
	}
	if total > maxKept {
		l.files = nil
	}
	return m, diags
}

// ahead parses the files that are not known, on as many cores as there are. Only
// those without a finding are kept: whoever has one is parsed again in order, so
// that what is said does not depend on who was first.
func (p *parser) ahead(names []string, schema *block) {
	names = slices.DeleteFunc(slices.Clone(names), func(name string) bool { return p.known[name] != nil })
	found := make([]*parsed, len(names))
	var next atomic.Int64
	work := func() {
		for i := next.Add(1) - 1; i < int64(len(names)); i = next.Add(1) - 1 {
			own := &parser{sink: newSink(p.files), elsewhere: p.elsewhere}
			src := p.files[names[i]]
			f := &parsed{src: src, braces: p.braces[names[i]], root: own.file(names[i], src, schema)}
			if f.root != nil && !f.root.bad && len(own.diags) == 0 && len(own.later) == 0 {
				found[i] = f
			}
		}
	}
	var hands sync.WaitGroup
	for range min(runtime.GOMAXPROCS(0), len(names)) - 1 {
		hands.Go(work)
	}
	work()
	hands.Wait()
	for i, f := range found {
		if f != nil {
			p.known[names[i]] = f
		}
	}
}
