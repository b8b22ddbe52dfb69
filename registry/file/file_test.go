package file

import (
	"context"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/kerege/kerege/mesh"
)

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func block(service string) string {
	return "service \"" + service + "\" {\n  protocol = \"http\"\n}\n"
}

// run watches a source and gives its parts.
func run(t *testing.T, opt Options) (*Source, func() mesh.Part, func() error) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	s, out, ended := New(opt), make(chan mesh.Part), make(chan error, 1)
	go func() { ended <- s.Watch(ctx, out) }()
	next := func() mesh.Part {
		t.Helper()
		select {
		case p := <-out:
			return p
		case err := <-ended:
			ended <- err
			t.Fatalf("Watch ended: %v", err)
		case <-time.After(5 * time.Second):
			t.Fatal("no part for 5 s")
		}
		return mesh.Part{}
	}
	end := func() error { stop(); return <-ended }
	t.Cleanup(stop)
	return s, next, end
}

func wantServices(t *testing.T, p mesh.Part, names ...string) {
	t.Helper()
	var got []string
	for _, s := range p.Services {
		got = append(got, string(s.Name))
	}
	if len(got) != len(names) {
		t.Fatalf("services %v, want %v", got, names)
	}
	for i := range got {
		if got[i] != names[i] {
			t.Fatalf("services %v, want %v", got, names)
		}
	}
}

func TestFilesAreAppliedAtTheStartAndWhenTold(t *testing.T) {
	dir := t.TempDir()
	mesh1 := filepath.Join(dir, "mesh")
	os.Mkdir(mesh1, 0o755)
	opt := Options{Paths: []string{mesh1}, State: filepath.Join(dir, "state", "generation.json")}
	write(t, mesh1+"/a.hcl", block("api"))
	s, next, end := run(t, opt)
	wantServices(t, next(), "api")
	if g, _ := s.Current(); g.Counter != 1 || g.Hash == "" {
		t.Errorf("generation %+v", g)
	}
	write(t, mesh1+"/b.hcl", block("web"))
	if d := s.Differs(); len(d) != 1 || d[0] != mesh1+"/b.hcl" {
		t.Errorf("differs: %v", d)
	}
	applied := make(chan error, 1)
	go func() {
		_, diags, err := s.Apply(t.Context())
		if err == nil {
			err = diags.Err()
		}
		applied <- err
	}()
	wantServices(t, next(), "api", "web")
	if err := <-applied; err != nil || len(s.Differs()) > 0 {
		t.Errorf("Apply: %v, differs %v", err, s.Differs())
	}
	// A FIFO, which reading would wait for, differs like any other new file.
	for _, name := range []string{"/new.hcl", "/b.hcl"} {
		_ = os.Remove(mesh1 + name)
		if err := syscall.Mkfifo(mesh1+name, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if d := s.Differs(); len(d) != 2 {
		t.Errorf("differs %v", d)
	}
	_ = os.Remove(mesh1 + "/new.hcl")
	_ = os.Remove(mesh1 + "/b.hcl")

	write(t, mesh1+"/b.hcl", "service \"web\" {\n  protocl = \"http\"\n}\n")
	_, diags, err := s.Apply(t.Context())
	if err != nil || !diags.HasErrors() {
		t.Errorf("a wrong file was applied: %v, %v", diags, err)
	}
	if r := s.Report(); r.State != mesh.SourceError || r.Err == "" {
		t.Errorf("report %+v", r)
	}
	if err := end(); err != nil {
		t.Error(err)
	}

	// A restart with the wrong file goes on with generation 2.
	s, next, end = run(t, opt)
	wantServices(t, next(), "api", "web")
	if g, _ := s.Current(); g.Counter != 2 {
		t.Errorf("generation %+v", g)
	}
	if r := s.Report(); r.State != mesh.SourceError {
		t.Errorf("report %+v", r)
	}
	end()

	// So does one whose directory is gone; a damaged state is put aside.
	os.Rename(mesh1, mesh1+".away")
	_, next, end = run(t, opt)
	wantServices(t, next(), "api", "web")
	end()
	write(t, opt.State, "{")
	ctx, stop := context.WithTimeout(t.Context(), 5*time.Second)
	defer stop()
	if err := New(opt).Watch(ctx, make(chan mesh.Part)); err == nil {
		t.Error("Watch goes on with nothing at all")
	}
	if kept, _ := filepath.Glob(opt.State + ".refused-*"); len(kept) != 1 {
		t.Errorf("kept aside: %v", kept)
	}
}

// B5: everything that happens to watched files.
func TestWatchedFiles(t *testing.T) {
	dir := t.TempDir()
	for _, d := range []string{"v1", "v2"} {
		os.Mkdir(filepath.Join(dir, d), 0o755)
	}
	link := filepath.Join(dir, "mesh")
	write(t, dir+"/v1/a.hcl", block("api"))
	write(t, dir+"/v1/b.hcl", block("web"))
	write(t, dir+"/v2/a.hcl", block("shop"))
	if err := os.Symlink("v1", link); err != nil {
		t.Fatal(err)
	}
	s, next, end := run(t, Options{Paths: []string{link}, Watch: true})
	defer end()
	wantServices(t, next(), "api", "web")

	// A half-written file changes nothing; its end does.
	write(t, dir+"/v1/a.hcl", block("api")+"service \"ne")
	waitFor(t, "the half-written file is refused", func() bool { return s.Report().State == mesh.SourceError })
	write(t, dir+"/v1/a.hcl", block("api")+block("new"))
	wantServices(t, next(), "api", "new", "web")

	// An editor: backup, new file under another name, rename.
	os.Rename(dir+"/v1/a.hcl", dir+"/v1/a.hcl~")
	write(t, dir+"/v1/.a.hcl.swp", "x")
	write(t, dir+"/v1/4913", block("api"))
	os.Rename(dir+"/v1/4913", dir+"/v1/a.hcl")
	wantServices(t, next(), "api", "web")

	// A file removed is removed.
	os.Remove(dir + "/v1/b.hcl")
	wantServices(t, next(), "api")

	// A link swapped.
	if err := os.Symlink("v2", dir+"/tmp"); err != nil {
		t.Fatal(err)
	}
	os.Rename(dir+"/tmp", link)
	wantServices(t, next(), "shop")

	// A dangling name is unreadable, not deleted; so is an empty directory.
	gen, _ := s.Current()
	if err := os.Symlink("nowhere", dir+"/v2/b.hcl"); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "the unreadable file is refused", func() bool { return s.Report().State == mesh.SourceError })
	os.Remove(dir + "/v2/b.hcl")
	waitFor(t, "the rest is right again", func() bool { return s.Report().State == mesh.SourceOK })
	os.Remove(dir + "/v2/a.hcl")
	time.Sleep(3 * debounce)
	if now, _ := s.Current(); now != gen {
		t.Errorf("an emptied directory was applied: %+v after %+v", now, gen)
	}
	go s.Apply(t.Context())
	wantServices(t, next())
}

func waitFor(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for range 500 {
		if ok() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("waited 5 s: %s", what)
}
